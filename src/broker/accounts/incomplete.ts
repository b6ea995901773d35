/**
 * HOT. Counts the bytes of incomplete packets as they arrive: of all clients together, and of strangers, who
 * have not been let in yet. As soon as there are too many, the connections with most of them are cut off.
 */
import type { Limits } from '../boundary/limits.ts'
import { largestOfGroups } from './relief-plan.ts'

/** A Network Connection whose incomplete packets are counted. */
export interface Sender {
  /** Empty before CONNECT was read. */
  readonly view: { readonly clientId: string }
  /** Bytes of packets that are incomplete, or not yet handled. */
  readonly incompleteBytes: number
  /** Whether the client is not let in yet. */
  readonly isStranger: boolean
  /** The name of its address in `UsageBook`. */
  readonly addressName: string
  /** Cuts the connection off; `told` is for the client. */
  cut(reason: string, told: string): void
}

type Share = 'memoryIncompletePercent' | 'memoryStrangersPercent'

/** Strangers with fewer bytes are never cut off: an ordinary CONNECT with a Will fits. */
const ORDINARY_CONNECT_BYTES = 1024

/** The share of the limit that has to arrive before the next search, if a search found nobody to cut off. */
const SEARCH_STEP = 1 / 64

/** Cutting off frees a tenth of the limit, so that the next few bytes do not start another search. */
const CUT_TO = 0.9

/** Bounds the bytes of incomplete packets. */
export class Incomplete {
  readonly #senders: Iterable<Sender>
  readonly #limited: (limit: Share, clientId: string, detail: string) => void
  #bytes = 0
  #strangersBytes = 0
  /** No search among strangers below this number of bytes: the latest one found only ordinary CONNECTs. */
  #searchedBytes = 0

  /** `limited` is called before a connection is cut off. */
  constructor(senders: Iterable<Sender>, limited: (limit: Share, clientId: string, detail: string) => void) {
    this.#senders = senders
    this.#limited = limited
  }

  /** Bytes of all clients, without strangers. */
  get bytes(): number {
    return this.#bytes
  }

  get strangersBytes(): number {
    return this.#strangersBytes
  }

  /** Counts bytes more, or fewer, of a connection. */
  changed(isStranger: boolean, bytes: number): void {
    if (isStranger) this.#strangersBytes += bytes
    else this.#bytes += bytes
  }

  /** Moves the bytes of a stranger who was let in to those of the clients. */
  letIn(bytes: number): void {
    this.#strangersBytes -= bytes
    this.#bytes += bytes
  }

  /** Cuts off the largest connections if there is more than the limits allow. */
  bound({ memoryBytesMax, memoryIncompletePercent, memoryStrangersPercent }: Limits): void {
    const strangersBytesMax = (memoryBytesMax * memoryStrangersPercent) / 100
    if (this.#strangersBytes <= strangersBytesMax) this.#searchedBytes = 0
    else if (this.#strangersBytes > this.#searchedBytes) this.#cutStrangers(strangersBytesMax)
    const bytesMax = (memoryBytesMax * memoryIncompletePercent) / 100
    if (this.#bytes > bytesMax) this.#cutClients(bytesMax)
  }

  /** Cuts off the largest strangers of the largest addresses, but never ordinary CONNECTs. */
  #cutStrangers(bytesMax: number): void {
    const strangers = this.#holders(true, ORDINARY_CONNECT_BYTES)
    const excess = this.#strangersBytes - bytesMax * CUT_TO
    for (const { sender, bytes } of largestOfGroups(strangers, addressOf, excess, 0)) {
      const { addressName } = sender
      const detail =
        `${bytes} bytes before the log-in from ${addressName}, the address with most; ` +
        `all clients that have not logged in may send ${bytesMax} together`
      this.#limited('memoryStrangersPercent', sender.view.clientId, detail)
      sender.cut(`cut off as one of the largest CONNECTs: ${detail}`, 'too much was sent before the log-in')
    }
    this.#searchedBytes = this.#strangersBytes + bytesMax * SEARCH_STEP
  }

  #cutClients(bytesMax: number): void {
    const excess = this.#bytes - bytesMax * CUT_TO
    for (const { sender, bytes } of largestOfGroups(this.#holders(false, 0), all, excess, 0)) {
      const detail = `${bytes} bytes of incomplete packets; all clients together may have ${bytesMax}`
      this.#limited('memoryIncompletePercent', sender.view.clientId, detail)
      sender.cut(
        `cut off as one of the clients with most: ${detail}`,
        'memory is short: the packet is incomplete',
      )
    }
  }

  #holders(isStranger: boolean, above: number): { readonly sender: Sender; readonly bytes: number }[] {
    const found: { readonly sender: Sender; readonly bytes: number }[] = []
    for (const sender of this.#senders) {
      const bytes = sender.isStranger === isStranger ? sender.incompleteBytes : 0
      if (bytes > above) found.push({ sender, bytes })
    }
    return found
  }
}

function addressOf({ sender }: { readonly sender: Sender }): string {
  return sender.addressName
}

function all(): string {
  return ''
}
