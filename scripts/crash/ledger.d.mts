/** What one publisher says on one topic. */
export interface Stream {
  readonly publisher: string
}

/** Whoever gets messages. */
export interface Receiver {
  readonly name: string
}

export interface Subscription {
  readonly filter: string
}

export interface Arrival {
  readonly topic: string
  readonly payload: string
  readonly qos: number
  readonly dup: boolean
  readonly retain: boolean
}

export class Ledger {
  readonly counts: Readonly<Record<string, number>>
  readonly details: readonly string[]
  stream(publisher: string, topic: string, qos: number, retain: boolean, expirySeconds?: number): Stream
  sent(stream: Stream): number
  repeated(stream: Stream, sequence: number): void
  published(stream: Stream, sequence: number): void
  receiver(name: string, ordered: boolean, owedBytes?: number): Receiver
  subscribing(receiver: Receiver, filter: string, qos: number): Subscription
  subscribed(subscription: Subscription): void
  arrived(receiver: Receiver, packet: Arrival, connection: string): void
}

export function payloadOf(publisher: string, sequence: number): string
