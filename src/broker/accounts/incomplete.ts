/**
 * HOT. What is buffered of packets that are not whole, counted as it comes: that of all clients together, and that of strangers,
 * who have not been let in yet. Whoever sends most of it is cut off as soon as it is too much.
 */
import type { Limits } from '../boundary/limits.ts'
import { largestOfGroups } from './relief-plan.ts'

/** A Network Connection as it counts here. */
export interface Sender {
  /** Empty before CONNECT was read. */
  readonly view: { readonly clientId: string }
  /** Bytes that it has us keep of packets that are not whole, or not handled yet. */
  readonly incompleteBytes: number
  /** Not let in yet. */
  readonly isStranger: boolean
  /** Of the address that it comes from. */
  readonly addressName: string
  /** Cuts it off; `told` is for the client. */
  cut(reason: string, told: string): void
}

type Share = 'memoryIncompletePercent' | 'memoryStrangersPercent'

/** A CONNECT with an ordinary name, user name, password and Will: whoever sends no more than this gets in. */
const ORDINARY_CONNECT_BYTES = 1024

/** Where nobody could be cut off, so much of the share has to come before the next search. */
const SEARCH_STEP = 1 / 64

/** After a cut, a tenth of the share is free: the next few bytes do not lead to the next search. */
const CUT_TO = 0.9

export class Incomplete {
  readonly #senders: Iterable<Sender>
  readonly #limited: (limit: Share, clientId: string, detail: string) => void
  #bytes = 0
  #strangersBytes = 0
  /** Up to here nobody is looked for among strangers: their CONNECTs were all ordinary when there were fewer bytes. */
  #searchedBytes = 0

  /** `limited` is told who is cut off, before it is. */
  constructor(senders: Iterable<Sender>, limited: (limit: Share, clientId: string, detail: string) => void) {
    this.#senders = senders
    this.#limited = limited
  }

  /** Bytes of all clients, strangers not included. */
  get bytes(): number {
    return this.#bytes
  }

  get strangersBytes(): number {
    return this.#strangersBytes
  }

  /** A connection holds so many bytes more, or less. */
  changed(isStranger: boolean, bytes: number): void {
    if (isStranger) this.#strangersBytes += bytes
    else this.#bytes += bytes
  }

  /** A stranger with so many bytes was let in. */
  letIn(bytes: number): void {
    this.#strangersBytes -= bytes
    this.#bytes += bytes
  }

  /** Cuts off those who send most, where it is more than the limits allow. */
  bound({ memoryBytesMax, memoryIncompletePercent, memoryStrangersPercent }: Limits): void {
    const strangersBytesMax = (memoryBytesMax * memoryStrangersPercent) / 100
    if (this.#strangersBytes <= strangersBytesMax) this.#searchedBytes = 0
    else if (this.#strangersBytes > this.#searchedBytes) this.#cutStrangers(strangersBytesMax)
    const bytesMax = (memoryBytesMax * memoryIncompletePercent) / 100
    if (this.#bytes > bytesMax) this.#cutClients(bytesMax)
  }

  /** Of the addresses that send most, those who send most; ordinary CONNECTs never. */
  #cutStrangers(bytesMax: number): void {
    const strangers = this.#holders(true, ORDINARY_CONNECT_BYTES)
    const excess = this.#strangersBytes - bytesMax * CUT_TO
    for (const { sender, bytes } of largestOfGroups(strangers, addressOf, excess, 0)) {
      const { addressName } = sender
      const detail =
        `${bytes} bytes before the log-in from ${addressName}, which sends most; ` +
        `all strangers together may take ${bytesMax}`
      this.#limited('memoryStrangersPercent', sender.view.clientId, detail)
      sender.cut(`cut off as one of the largest CONNECTs: ${detail}`, 'too much was sent before the log-in')
    }
    this.#searchedBytes = this.#strangersBytes + bytesMax * SEARCH_STEP
  }

  #cutClients(bytesMax: number): void {
    const excess = this.#bytes - bytesMax * CUT_TO
    for (const { sender, bytes } of largestOfGroups(this.#holders(false, 0), all, excess, 0)) {
      const detail = `${bytes} bytes of packets that are not whole; all clients together may have ${bytesMax}`
      this.#limited('memoryIncompletePercent', sender.view.clientId, detail)
      sender.cut(
        `cut off as one of those who send most: ${detail}`,
        'memory is short: a packet that is not whole',
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
