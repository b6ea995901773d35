/** Types of the questions to sources of rights, and of their answers. */
import type { QoS } from '../mqtt/packet.ts'

/** The client that a question is about. */
export interface Identity {
  readonly clientId: string
  /** Null for anonymous. */
  readonly userName: string | null
  /** The id of the user's account at its log-in; not compared when absent. */
  readonly userId?: string | null
}

/** The action that a client asks for. */
export type Request =
  | { readonly action: 'publish'; readonly topic: string; readonly qos: QoS; readonly retain: boolean }
  /** `filter` as sent, `$share/name/` included. */
  | { readonly action: 'subscribe'; readonly filter: string; readonly qos: QoS }
  /** A message that matches a Subscription. */
  | { readonly action: 'receive'; readonly topic: string }
  /** Every message that matches the filter, for a queue that will take them. */
  | { readonly action: 'receive all'; readonly filter: string }
  /** A queue that the client would make by using it; the topic is `$queue/NAME`. */
  | { readonly action: 'declare'; readonly topic: string }

/** Yes or no, and the rule that decides, for `godwit explain access`. */
export interface Decision {
  readonly allow: boolean
  /** Such as `role sensors`, or `/etc/godwit/acl, line 12`. */
  readonly source: string
  readonly rule: string
}

/** The rights that one source gives to one client. */
export interface ClientRights {
  /** Returns null if no rule of the source concerns the request; then the next source is asked. */
  decide(request: Request): Decision | null
  /**
   * Whether the client may receive every message whose topic name does not begin with `$`, without a check.
   */
  readonly receivesEverything: boolean
}
