/** Checks limits on length, depth and size that are the same for every client. */
import type { Will } from '../../mqtt/message.ts'
import { Reason } from '../../mqtt/reason.ts'
import { SHARE_PREFIX, topicLevels } from '../../mqtt/topics.ts'
import type { Limit } from '../boundary/events.ts'
import type { Limits } from '../boundary/limits.ts'

/** A limit that refuses something. */
export interface Excess {
  readonly limit: Limit
  readonly reasonCode: Reason
  /** How much there is; for the log. */
  readonly detail: string
  /** For the client, without numbers and without anything about others. */
  readonly told: string
}

/** Tells whether a text has more bytes. A UTF-16 unit has at most three, so short texts are not measured. */
export function hasMoreBytes(text: string, bytes: number): boolean {
  return text.length * 3 > bytes && Buffer.byteLength(text) > bytes
}

/** Makes an Excess. `told` is for clients of 5.0 if the refusal has a place for text. */
export function excess(
  limit: Limit,
  detail: string,
  told = '',
  reasonCode: Reason = Reason.QuotaExceeded,
): Excess {
  return { limit, reasonCode, detail, told }
}

/** Checks the Client Identifier and the Will of a CONNECT. */
export function connectExcess(
  limits: Limits,
  { clientId, will }: { readonly clientId: string; readonly will?: Will | undefined },
): Excess | null {
  if (hasMoreBytes(clientId, limits.clientIdBytesMax)) {
    const detail = `a Client Identifier of ${Buffer.byteLength(clientId)} bytes`
    return excess(
      'clientIdBytesMax',
      detail,
      'the Client Identifier is too long',
      Reason.ClientIdentifierNotValid,
    )
  }
  if (will === undefined) return null
  if (hasMoreBytes(will.topic, limits.topicBytesMax)) {
    return excess('topicBytesMax', 'Will Topic', 'the Will Topic is too long', Reason.TopicNameInvalid)
  }
  if (will.topic.length >= limits.topicLevelsMax && topicLevels(will.topic) > limits.topicLevelsMax) {
    return excess(
      'topicLevelsMax',
      'Will Topic',
      'the Will Topic has too many levels',
      Reason.TopicNameInvalid,
    )
  }
  const bytes = Buffer.byteLength(will.topic) + will.payload.length + will.properties.length
  if (bytes <= limits.willBytesMax) return null
  return excess('willBytesMax', `a Will of ${bytes} bytes`, 'the Will is too large')
}

/** Checks the form of a topic filter; `inner` is the filter without `$share/name/`. */
export function filterExcess(limits: Limits, filter: string, inner: string): Excess | null {
  if (hasMoreBytes(inner, limits.topicBytesMax)) {
    return excess('topicBytesMax', 'topic filter is longer', '', Reason.TopicFilterInvalid)
  }
  if (inner.length >= limits.topicLevelsMax && topicLevels(inner) > limits.topicLevelsMax) {
    return excess('topicLevelsMax', 'topic filter has more levels', '', Reason.TopicFilterInvalid)
  }
  if (inner === filter) return null
  const name = filter.slice(SHARE_PREFIX.length, filter.length - inner.length - 1)
  if (!hasMoreBytes(name, limits.shareNameBytesMax)) return null
  return excess('shareNameBytesMax', 'ShareName is longer', '', Reason.TopicFilterInvalid)
}
