/** Moves messages that failed to their dead letter queues: there and gone here in one commit. */
import { Message } from '../../mqtt/message.ts'
import type { Death } from '../../queue/group-context.ts'
import type { ServerState } from '../state/server-state.ts'
import { UNITS } from '../state/work.ts'
import { userProperty, withoutUserProperties, withUserProperties } from './arriving.ts'
import type { Queue } from './queue.ts'

/** Messages that are moved in one turn. */
const MOVED_MAX = 128

/** Characters of what a consumer said about a message. */
const DETAIL_MAX = 256

const PREFIX = 'x-death-'

interface Burial {
  readonly queue: Queue
  readonly death: Death
}

export class DeadLetters {
  readonly #state: ServerState
  /** Finds or makes the queue for the dead letters of another; null if there is none. */
  readonly #target: (queue: Queue) => Queue | null
  /** Called in the turn in which a message was moved. */
  readonly #moved: (queue: Queue, death: Death) => void
  /** Oldest first. */
  readonly #waiting: Burial[] = []
  #isUnderWay = false

  constructor(
    state: ServerState,
    target: (queue: Queue) => Queue | null,
    moved: (queue: Queue, death: Death) => void,
  ) {
    this.#state = state
    this.#target = target
    this.#moved = moved
  }

  /** Moves a message in a later turn. */
  add(queue: Queue, death: Death): void {
    this.#waiting.push({ queue, death })
    this.#goOn()
  }

  #goOn(): void {
    if (this.#isUnderWay) return
    this.#isUnderWay = true
    this.#state.turn.continueLater(() => this.#run())
  }

  #run(): void {
    let moved = 0
    for (; moved < MOVED_MAX && moved < this.#waiting.length; moved++) {
      const { queue, death } = this.#waiting[moved]!
      if (!queue.isGone && !this.#move(queue, death)) break
    }
    const next = this.#waiting[moved]
    this.#waiting.splice(0, moved)
    this.#isUnderWay = false
    if (next !== undefined && moved < MOVED_MAX) this.#read(next)
    else if (next !== undefined) this.#goOn()
  }

  /** Returns false if the message must be read first. */
  #move(queue: Queue, death: Death): boolean {
    const { logs } = this.#state.store
    const cursor = logs.segment(queue.numbers.logs[death.lane]!, death.sequence)?.from(death.sequence)
    if (cursor === undefined) return false
    this.#state.work.units += UNITS.storedDelivery
    const target = this.#target(queue)
    if (cursor.next() && cursor.sequence === death.sequence && target !== null) {
      const dead = deadMessage(cursor.message(), queue.name, death, {
        enqueuedAt: cursor.appendedWall,
        now: this.#state.host.wallNow(),
      })
      if (target.moveRefusal(dead) === null) target.moveIn(dead)
      else target.context.drop('overflow', 1)
    } else queue.context.drop('dead', 1)
    this.#tell(queue, death)
    queue.group.moved(death)
    this.#moved(queue, death)
    return true
  }

  #tell(queue: Queue, { sequence, reason, clientId }: Death): void {
    const { events } = this.#state
    if (events.has('queueDead')) events.emit('queueDead', { queue: queue.name, sequence, reason, clientId })
  }

  #read({ queue, death }: Burial): void {
    this.#isUnderWay = true
    this.#state.store.logs.load(queue.numbers.logs[death.lane]!, death.sequence).then(
      () => {
        this.#isUnderWay = false
        this.#state.turn.begin()
        this.#run()
      },
      (error: unknown) => {
        this.#isUnderWay = false
        if (!queue.isGone) this.#state.storeFailed(error)
        else if (this.#waiting.length > 0) this.#goOn()
      },
    )
  }

  /** Forgets everything: the store is read again. */
  clear(): void {
    this.#waiting.length = 0
  }
}

/** Makes the dead letter: topic and properties stay, the expiry goes, and `x-death-…` say what happened. */
function deadMessage(
  message: Message,
  queue: string,
  { reason, attempts, code, detail, clientId }: Death,
  times: { readonly enqueuedAt: number; readonly now: number },
): Message {
  const { topic, payload, publisher, qos, retain } = message
  const died = userProperty(message.properties, `${PREFIX}reason`) !== undefined
  const cycles = Number(userProperty(message.properties, `${PREFIX}cycles`) ?? 1)
  const pairs: (readonly [string, string])[] = [
    [`${PREFIX}reason`, reason],
    [`${PREFIX}queue`, queue],
    [`${PREFIX}time`, `${Math.round(times.now)}`],
    [`${PREFIX}enqueued`, `${Math.round(times.enqueuedAt)}`],
    [`${PREFIX}count`, `${attempts}`],
  ]
  if (code >= 0x80) pairs.push([`${PREFIX}code`, `0x${code.toString(16)}`])
  // Never the half of a character that takes two.
  const said = detail.slice(0, DETAIL_MAX).replace(/[\uD800-\uDBFF]$/, '')
  if (said !== '') pairs.push([`${PREFIX}detail`, said])
  // An ended Session that was read from the store has a name that no client can have.
  if (clientId !== '' && !clientId.startsWith('\0')) pairs.push([`${PREFIX}consumer`, clientId])
  if (died) pairs.push([`${PREFIX}cycles`, `${Number.isSafeInteger(cycles) ? cycles + 1 : 2}`])
  const kept = withoutUserProperties(message.properties, (name) => name.startsWith(PREFIX))
  const properties = withUserProperties(kept, pairs)
  return Message.of({ topic, payload, properties, publisher, qos, retain })
}
