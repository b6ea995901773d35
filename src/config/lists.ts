/** PURE. Reads the lists of a configuration. Each function returns undefined for a wrong value. */
import { isName } from '../access/accounts-file.ts'
import type { ListedCertificate } from '../access/certificate-users.ts'
import type { RefusedSubscription } from '../broker/boundary/limits.ts'
import { LENIENCE_NAMES, type Lenience } from '../mqtt/lenience.ts'
import { Reason, SUBACK_REFUSALS } from '../mqtt/reason.ts'
import { SHARE_PREFIX, topicFilterError } from '../mqtt/topics.ts'
import { EVERY_ORIGIN } from '../transport/listener/page-origin.ts'

/** The default Reason Code of a refused subscription. */
const DEFAULT_REFUSAL = Reason.NotAuthorized

/** The Reason Codes of SUBACK that refuse a Subscription, as text. */
export const SUBACK_REFUSALS_TEXT = [...SUBACK_REFUSALS].map(hexadecimal).join(', ')

export function subackRefusal(found: unknown): Reason | undefined {
  return typeof found === 'number' && SUBACK_REFUSALS.has(found) ? (found as Reason) : undefined
}

export function textList(found: unknown): string[] | undefined {
  const isText = (item: unknown): item is string => typeof item === 'string' && item !== ''
  return Array.isArray(found) && found.every(isText) ? found : undefined
}

/** Reads hexadecimal SHA-256 hashes. */
export function hashList(found: unknown): string[] | undefined {
  const list = textList(found)
  return list?.every((hash) => /^[0-9a-f]{64}$/i.test(hash)) ? list : undefined
}

export function pemFiles(found: unknown): string | string[] | undefined {
  if (typeof found === 'string') return found === '' ? undefined : found
  const list = textList(found)
  return list?.length === 0 ? undefined : list
}

export function certificateList(found: unknown): ListedCertificate[] | undefined {
  if (!Array.isArray(found)) return undefined
  const entries = found.map((entry: unknown): ListedCertificate | undefined => {
    if (typeof entry !== 'object' || entry === null) return undefined
    const { fingerprint, user, ...rest } = entry as Record<string, unknown>
    const isEntry =
      typeof fingerprint === 'string' &&
      /^([0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}$/.test(fingerprint) &&
      typeof user === 'string' &&
      isName(user) &&
      Object.keys(rest).length === 0
    return isEntry ? { fingerprint, user } : undefined
  })
  return entries.every((entry) => entry !== undefined) ? entries : undefined
}

export function lenienceList(found: unknown): Lenience[] | undefined {
  const isName = (name: unknown): name is Lenience => LENIENCE_NAMES.some((known) => known === name)
  return Array.isArray(found) && found.every(isName) ? found : undefined
}

export function refusedSubscriptionList(found: unknown): RefusedSubscription[] | undefined {
  if (!Array.isArray(found)) return undefined
  const entries = found.map(refusedSubscription)
  return entries.every((entry) => entry !== undefined) ? entries : undefined
}

export function originList(found: unknown): string[] | undefined {
  if (!Array.isArray(found) || found.length === 0) return undefined
  return found.every(
    (origin) =>
      typeof origin === 'string' &&
      (origin === EVERY_ORIGIN || /^(?:file:\/\/|[a-z][a-z0-9+.-]*:\/\/[^/\s]+)$/i.test(origin)),
  )
    ? found
    : undefined
}

function refusedSubscription(found: unknown): RefusedSubscription | undefined {
  if (typeof found !== 'object' || found === null) return undefined
  const { filter, reason_code: reasonCode = DEFAULT_REFUSAL, ...others } = found as Record<string, unknown>
  if (Object.keys(others).length > 0 || typeof reasonCode !== 'number') return undefined
  if (typeof filter !== 'string' || topicFilterError(filter) !== null || filter.startsWith(SHARE_PREFIX)) {
    return undefined
  }
  return SUBACK_REFUSALS.has(reasonCode) ? { filter, reasonCode: reasonCode as Reason } : undefined
}

function hexadecimal(code: number): string {
  return `0x${code.toString(16).toUpperCase()}`
}
