/**
 * Keeps V8's young generation small while few messages come. V8 doubles it, up to 16 MiB, whenever as much
 * has survived. Clients that log in make it grow, and a collection of 16 MiB that survive stops all clients
 * for 10 to 20 ms. One of 1 MiB takes 1 ms. Messages hardly survive, and are cheaper with 16 MiB.
 */
import { setFlagsFromString } from 'node:v8'

/** The part of the broker's counters that is looked at. */
interface MessageCounters {
  readonly publishReceived: number
  readonly publishSent: number
}

/**
 * Tells V8 by how much its young generation may grow at a time. Only the code for that reads this flag, in
 * V8 11.3, so it may be set at any time.
 */
const HELD = '--semi-space-growth-factor=1'
const GROWING = '--semi-space-growth-factor=2'

/** The young generation grows while at least this many messages are received and sent in a second. */
const MESSAGES_MIN = 5000

const LOOK_MS = 1000

/** Other versions of V8 may take the flag otherwise. */
const IS_KNOWN = process.versions.v8.startsWith('11.3.')

export class YoungGeneration {
  readonly #setFlag: (flag: string) => void
  #counters: MessageCounters | null = null
  #messages = 0
  #isHeld = false
  #timer: NodeJS.Timeout | undefined

  /** Holds it as small as it is. `setFlag` sets a flag of V8. */
  constructor(setFlag: (flag: string) => void = IS_KNOWN ? setFlagsFromString : () => {}) {
    this.#setFlag = setFlag
    this.#hold(true)
  }

  /** Lets it grow, from now on, while these counters show many messages. */
  watch(counters: MessageCounters): void {
    this.#counters = counters
    this.#messages = messagesOf(counters)
    this.#timer = setInterval(() => this.look(), LOOK_MS).unref()
  }

  /** Looks at the messages since the latest look, a second ago. */
  look(): void {
    if (this.#counters === null) return
    const messages = messagesOf(this.#counters)
    this.#hold(messages - this.#messages < MESSAGES_MIN)
    this.#messages = messages
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#hold(false)
  }

  #hold(isHeld: boolean): void {
    if (isHeld === this.#isHeld) return
    this.#isHeld = isHeld
    this.#setFlag(isHeld ? HELD : GROWING)
  }
}

function messagesOf({ publishReceived, publishSent }: MessageCounters): number {
  return publishReceived + publishSent
}
