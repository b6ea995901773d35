/** HOT. What one client may do, decided once per topic name and remembered until anything changes. */
import type { QoS } from '../mqtt/packet.ts'
import type { ClientRights, Decision, Request } from './decision.ts'

/** Topic names that are remembered per client and kind of request; with more, remembering begins anew. */
const REMEMBERED_MAX = 512

export class Rights {
  readonly #sources: readonly ClientRights[]
  readonly #otherwise: Decision
  readonly #receivesEverything: boolean
  readonly #receiving = new Map<string, boolean>()
  /** By QoS and RETAIN. */
  readonly #publishing: (Map<string, boolean> | undefined)[] = []

  /** The first source that decides is heard; `otherwise` holds where none does. */
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
    return remember(known, topic, this.decide({ action: 'publish', topic, qos, retain }).allow)
  }

  mayReceive(topic: string): boolean {
    if (this.#receivesEverything && topic.charCodeAt(0) !== 0x24) return true
    const remembered = this.#receiving.get(topic)
    if (remembered !== undefined) return remembered
    return remember(this.#receiving, topic, this.decide({ action: 'receive', topic }).allow)
  }
}

function remember(known: Map<string, boolean>, topic: string, allow: boolean): boolean {
  if (known.size >= REMEMBERED_MAX) known.clear()
  known.set(topic, allow)
  return allow
}
