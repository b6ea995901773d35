/** What one Network Connection is forgiven, since its listener is lenient: counted each time, told once. */
import { type Lenience, Tolerance } from '../../mqtt/lenience.ts'
import type { ClientView } from '../boundary/policy.ts'
import type { State } from '../state/state.ts'

export class Forgiven {
  /** For the framer and the decoders. */
  readonly tolerance: Tolerance
  readonly #state: State
  readonly #rules = new Set<Lenience>()
  #client: ClientView | null = null

  /** `rules` are those of the listener. */
  constructor(state: State, rules: readonly Lenience[]) {
    this.#state = state
    this.tolerance = new Tolerance(rules, (rule) => this.#used(rule))
  }

  /** CONNECT said who it is: what it was forgiven until then is told. */
  identified(client: ClientView): void {
    this.#client = client
    for (const rule of this.#rules) this.#tell(client, rule)
  }

  #used(rule: Lenience): void {
    this.#state.figures.forgiven[rule]++
    if (this.#rules.has(rule)) return
    this.#rules.add(rule)
    if (this.#client !== null) this.#tell(this.#client, rule)
  }

  #tell(client: ClientView, rule: Lenience): void {
    const { events } = this.#state
    if (events.has('forgiven')) events.emit('forgiven', { client, rule })
  }
}
