/** HOT, PURE. User Properties by which a publisher tells a queue about a message (section 3.3.2.3.7). */
import { PropertyReader } from '../mqtt/properties/reader.ts'
import { PropertyId, PropertyPlace } from '../mqtt/properties/table.ts'

/** Bytes of a `message-id` in UTF-8. */
export const MESSAGE_ID_BYTES_MAX = 128

const MESSAGE_ID = 'message-id'
const MESSAGE_ID_BYTES = Buffer.from(MESSAGE_ID)

/** The last property of a name counts. */
export interface Marks {
  /** `message-id`; null for none, and for one that is not heard. */
  readonly id: string | null
  /** Whether there is a `message-id` of no or too many bytes. */
  readonly isIdBad: boolean
}

const NO_MARKS: Marks = Object.freeze({ id: null, isIdBad: false })

/** Reads the properties of a message as they are forwarded. */
export function marksOf(properties: Buffer): Marks {
  // Most messages have none, and a search costs less than reading all properties.
  if (properties.length === 0 || !properties.includes(MESSAGE_ID_BYTES)) return NO_MARKS
  let marks = NO_MARKS
  const reader = new PropertyReader(properties, 0, properties.length, PropertyPlace.Publish)
  while (reader.next()) {
    if (reader.id !== PropertyId.UserProperty || reader.text !== MESSAGE_ID) continue
    const bytes = reader.secondEnd - reader.secondStart
    const isIdBad = bytes === 0 || bytes > MESSAGE_ID_BYTES_MAX
    marks = { id: isIdBad ? null : reader.pair[1], isIdBad }
  }
  return marks
}
