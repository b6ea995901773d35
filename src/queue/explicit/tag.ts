/** PURE. Tags, by which a message is acknowledged with a PUBLISH: `<lane><sequence>.<attempt>.<token>`. */

/** The parts of a tag; see `Handle.tag`. */
export interface Tag {
  readonly lane: number
  readonly sequence: number
  readonly attempt: number
  readonly token: string
}

const FORM = /^(\d)([1-9a-z][0-9a-z]{0,9})\.([1-9]\d{0,8})\.([A-Za-z0-9_-]{1,22})$/

/** Returns null for what no queue ever gave out. */
export function parseTag(text: string): Tag | null {
  const [, lane, sequence, attempt, token] = FORM.exec(text) ?? []
  if (lane === undefined || sequence === undefined || attempt === undefined || token === undefined)
    return null
  return { lane: Number(lane), sequence: Number.parseInt(sequence, 36), attempt: Number(attempt), token }
}
