/** An Acceptor for tests that writes down what happens to each Link. */
import { EventEmitter, once } from 'node:events'
import type { Acceptor, Link, LinkHandler } from '../../src/broker/boundary/link.ts'

export class RecordedLink implements LinkHandler {
  readonly link: Link
  readonly chunks: Buffer[] = []
  receivedBytes = 0
  drains = 0
  ends: (Error | undefined)[] = []
  closes: (Error | undefined)[] = []
  /** Ends the link when the peer's input ends, as a Server does with a connection that nothing holds. */
  leaving = true
  callsAfterClose = 0
  /** Keeps what arrives; false counts only. */
  keep = true
  onReceived: (chunk: Buffer) => void = () => {}
  readonly #changed = new EventEmitter().setMaxListeners(0)

  constructor(link: Link) {
    this.link = link
  }

  get text(): string {
    return Buffer.concat(this.chunks).toString()
  }

  received(chunk: Buffer): void {
    this.#note()
    if (this.keep) this.chunks.push(chunk)
    this.receivedBytes += chunk.length
    this.onReceived(chunk)
    this.#changed.emit('change')
  }

  drained(): void {
    this.#note()
    this.drains++
    this.#changed.emit('change')
  }

  ended(error: Error | undefined): void {
    this.#note()
    this.ends.push(error)
    if (this.leaving) this.link.end()
    this.#changed.emit('change')
  }

  closed(error: Error | undefined): void {
    this.#note()
    this.closes.push(error)
    this.#changed.emit('change')
  }

  /** Resolves once the condition holds. */
  async until(condition: (self: this) => boolean): Promise<void> {
    while (!condition(this)) await once(this.#changed, 'change')
  }

  #note(): void {
    if (this.closes.length > 0) this.callsAfterClose++
  }
}

export class Recorder implements Acceptor {
  readonly links: RecordedLink[] = []
  refusing = false
  /** Told of each new link before anything arrives on it. */
  onLink: (recorded: RecordedLink) => void = () => {}
  readonly #accepted = new EventEmitter().setMaxListeners(0)

  accept(link: Link): LinkHandler | null {
    if (this.refusing) return null
    const recorded = new RecordedLink(link)
    this.links.push(recorded)
    this.onLink(recorded)
    this.#accepted.emit('link')
    return recorded
  }

  /** The link with this number, counted from 0, when it is there. */
  async at(index: number): Promise<RecordedLink> {
    while (this.links.length <= index) await once(this.#accepted, 'link')
    return this.links[index]!
  }
}

/** Resolves with the arguments of `close`, whatever errors come before it. */
export function closing(emitter: EventEmitter): Promise<unknown[]> {
  return new Promise((resolve) => {
    emitter.on('error', () => {})
    emitter.once('close', (...values: unknown[]) => resolve(values))
  })
}
