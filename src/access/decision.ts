/** What sources of rights are asked, and what they answer. */
import type { QoS } from '../mqtt/packet.ts'

/** Who asks. */
export interface Identity {
  readonly clientId: string
  /** Null for anonymous. */
  readonly userName: string | null
  /** Of the account that the user had; any when absent. */
  readonly userId?: string | null
}

/** What somebody wants to do. */
export type Request =
  | { readonly action: 'publish'; readonly topic: string; readonly qos: QoS; readonly retain: boolean }
  /** `filter` as sent, `$share/name/` included. */
  | { readonly action: 'subscribe'; readonly filter: string; readonly qos: QoS }
  /** One message that a Subscription found. */
  | { readonly action: 'receive'; readonly topic: string }

/** Yes or no, and the rule that says so: for `godwit explain access`. */
export interface Decision {
  readonly allow: boolean
  /** Such as `role sensors`, or `/etc/godwit/acl, line 12`. */
  readonly source: string
  readonly rule: string
}

/** What one source says to one client. Null: nothing, the next one is asked. */
export interface ClientRights {
  decide(request: Request): Decision | null
  /** Whether every message may be received whose topic name does not begin with `$`: then they need not be looked at. */
  readonly receivesEverything: boolean
}
