/** PURE. From when and until when what a TLS listener has is valid, in words. */

const DAY_MS = 86_400_000

/** In ms of the wall clock. */
export interface CertificateTimes {
  readonly validFrom: number
  /** When the first certificate of the chains ends. */
  readonly validTo: number
  /** Whose list of revoked certificates ends first; null where none does. */
  readonly listEnd: { readonly authority: string; readonly endMs: number } | null
}

/** Whole days from now on; negative for what is over. */
export function daysTo(ms: number, nowMs: number): number {
  return Math.floor((ms - nowMs) / DAY_MS)
}

/** What becomes of the certificate, behind the word `certificate`. */
export function certificateState({ validFrom, validTo }: CertificateTimes, nowMs: number): string {
  if (nowMs > validTo) return `expired on ${day(validTo)}, ${ago(validTo, nowMs)}: clients refuse it`
  if (nowMs < validFrom)
    return `is not valid before ${minute(validFrom)}: clients refuse it. Is the clock right?`
  return `is valid until ${day(validTo)}, ${daysTo(validTo, nowMs)} days`
}

/** What is wrong with the times, a sentence's end for each; empty when all is well. */
export function timeTroubles(times: CertificateTimes, nowMs: number): string[] {
  const list = listTrouble(times, nowMs)
  return [
    ...(isValidAt(times, nowMs) ? [] : [`the certificate ${certificateState(times, nowMs)}`]),
    ...(list === null ? [] : [list]),
  ]
}

/** Whether clients accept the certificate, as far as its times go. */
export function isValidAt({ validFrom, validTo }: CertificateTimes, nowMs: number): boolean {
  return nowMs >= validFrom && nowMs <= validTo
}

/** Null while each list of revoked certificates is current. */
export function listTrouble({ listEnd }: CertificateTimes, nowMs: number): string | null {
  if (listEnd === null || nowMs <= listEnd.endMs) return null
  const { authority, endMs } = listEnd
  return (
    `the list of revoked certificates by ${authority} was to be replaced by ${minute(endMs)}, ${ago(endMs, nowMs)}: ` +
    'every client certificate that it signed is refused'
  )
}

function ago(ms: number, nowMs: number): string {
  const days = Math.floor((nowMs - ms) / DAY_MS)
  return days === 0 ? 'less than a day ago' : days === 1 ? '1 day ago' : `${days} days ago`
}

export function day(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10)
}

function minute(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 16).replace('T', ' ')} UTC`
}
