/**
 * HOT. Decides for one client. Each decision is made once per topic name and remembered until a source
 * changes.
 */
import type { QoS } from '../mqtt/packet.ts'
import type { ClientRights, Decision, Request } from './decision.ts'

/** At most so many topic names are remembered for each kind of request; one more clears all of that kind. */
const REMEMBERED_MAX = 512

/** The characters of all topic names that are remembered for a client. */
const CHARACTERS_MAX = 32_768
/** Decisions about longer topic names are not remembered. */
const NAME_CHARACTERS_MAX = 1024

/** The rights of one client. */
export class Rights {
  readonly #sources: readonly ClientRights[]
  readonly #otherwise: Decision
  readonly #receivesEverything: boolean
  readonly #receiving = new Map<string, boolean>()
  /** By QoS and RETAIN. */
  readonly #publishing: (Map<string, boolean> | undefined)[] = []
  #characters = 0

  /** The first source that decides is followed; `otherwise` is the decision if none does. */
  constructor(sources: readonly ClientRights[], otherwise: Decision) {
    this.#sources = sources
    this.#otherwise = otherwise
    this.#receivesEverything = sources[0]?.receivesEverything ?? false
  }

  decide(request: Request): Decision {
    for (const source of this.#sources) {
      const decision = source.decide(request)
      if (decision !== null) return decision
    }
    return this.#otherwise
  }

  mayPublish(topic: string, qos: QoS, retain: boolean): boolean {
    const kind = retain ? qos + 3 : qos
    let known = this.#publishing[kind]
    if (known === undefined) {
      known = new Map()
      this.#publishing[kind] = known
    }
    const remembered = known.get(topic)
    if (remembered !== undefined) return remembered
    return this.#remember(known, topic, this.decide({ action: 'publish', topic, qos, retain }).allow)
  }

  mayReceive(topic: string): boolean {
    if (this.#receivesEverything && topic.charCodeAt(0) !== 0x24) return true
    const remembered = this.#receiving.get(topic)
    if (remembered !== undefined) return remembered
    return this.#remember(this.#receiving, topic, this.decide({ action: 'receive', topic }).allow)
  }

  #remember(known: Map<string, boolean>, topic: string, allow: boolean): boolean {
    const { length } = topic
    if (length > NAME_CHARACTERS_MAX) return allow
    if (this.#characters + length > CHARACTERS_MAX) this.#forgetAll()
    else if (known.size >= REMEMBERED_MAX) {
      for (const name of known.keys()) this.#characters -= name.length
      known.clear()
    }
    this.#characters += length
    known.set(topic, allow)
    return allow
  }

  #forgetAll(): void {
    this.#receiving.clear()
    for (const known of this.#publishing) known?.clear()
    this.#characters = 0
  }

  /** Characters of all topic names that are remembered. */
  get characters(): number {
    return this.#characters
  }
}
