/** PURE. Describes the validity of a TLS listener's certificates and revocation lists. */

const DAY_MS = 86_400_000

/** Times in ms of the wall clock. */
export interface CertificateTimes {
  readonly validFrom: number
  /** The earliest end of a certificate in the chains. */
  readonly validTo: number
  /** The revocation list that ends first, and its authority; null if none ends. */
  readonly listEnd: { readonly authority: string; readonly endMs: number } | null
}

/** Returns the whole days until a time; negative for a time in the past. */
export function daysUntil(ms: number, nowMs: number): number {
  return Math.floor((ms - nowMs) / DAY_MS)
}

/** Describes the validity as the rest of a sentence that begins with `certificate`. */
export function validityText({ validFrom, validTo }: CertificateTimes, nowMs: number): string {
  if (nowMs > validTo) return `expired on ${dateText(validTo)}, ${ago(validTo, nowMs)}: clients refuse it`
  if (nowMs < validFrom)
    return `is not valid before ${minuteText(validFrom)}: clients refuse it. Is the clock right?`
  return `is valid until ${dateText(validTo)}, ${daysUntil(validTo, nowMs)} days`
}

/** Describes each problem with the times as part of a sentence; empty if there is none. */
export function validityProblems(times: CertificateTimes, nowMs: number): string[] {
  const list = revocationListProblem(times, nowMs)
  return [
    ...(isValidAt(times, nowMs) ? [] : [`the certificate ${validityText(times, nowMs)}`]),
    ...(list === null ? [] : [list]),
  ]
}

/** Whether the certificate is valid at this time. */
export function isValidAt({ validFrom, validTo }: CertificateTimes, nowMs: number): boolean {
  return nowMs >= validFrom && nowMs <= validTo
}

/** Describes a revocation list that is out of date; null if all are current. */
export function revocationListProblem({ listEnd }: CertificateTimes, nowMs: number): string | null {
  if (listEnd === null || nowMs <= listEnd.endMs) return null
  const { authority, endMs } = listEnd
  return (
    `the list of revoked certificates by ${authority} expired on ${minuteText(endMs)}, ` +
    `${ago(endMs, nowMs)}: every client certificate of this authority is refused`
  )
}

function ago(ms: number, nowMs: number): string {
  const days = Math.floor((nowMs - ms) / DAY_MS)
  return days === 0 ? 'less than a day ago' : days === 1 ? '1 day ago' : `${days} days ago`
}

/** Formats the date of a time, such as `2027-10-01`. */
export function dateText(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10)
}

function minuteText(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 16).replace('T', ' ')} UTC`
}
