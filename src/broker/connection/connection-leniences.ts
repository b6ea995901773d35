/** Counts the rules that a client of a lenient listener breaks, and reports each of them once. */
import { type Lenience, Leniences } from '../../mqtt/lenience.ts'
import type { ClientView } from '../boundary/policy.ts'
import type { ServerState } from '../state/server-state.ts'

export class ConnectionLeniences {
  /** Asked by the framer and the decoders. */
  readonly leniences: Leniences
  readonly #state: ServerState
  readonly #rules = new Set<Lenience>()
  #client: ClientView | null = null

  /** `rules` are those that the listener lets clients break. */
  constructor(state: ServerState, rules: readonly Lenience[]) {
    this.#state = state
    this.leniences = new Leniences(rules, (rule) => this.#used(rule))
  }

  /** Reports the rules that were broken before CONNECT identified the client. */
  identified(client: ClientView): void {
    this.#client = client
    for (const rule of this.#rules) this.#tell(client, rule)
  }

  #used(rule: Lenience): void {
    this.#state.counters.forgiven[rule]++
    if (this.#rules.has(rule)) return
    this.#rules.add(rule)
    if (this.#client !== null) this.#tell(this.#client, rule)
  }

  #tell(client: ClientView, rule: Lenience): void {
    const { events } = this.#state
    if (events.has('forgiven')) events.emit('forgiven', { client, rule })
  }
}
