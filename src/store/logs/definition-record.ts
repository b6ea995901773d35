/** Definitions and groups, as they are stored. */
import { type ByteReader, ByteWriter, textBytesMax } from '../format/encoding.ts'
import type {
  DefinitionKind,
  DefinitionOrigin,
  DefinitionOwner,
  DefinitionRecord,
  GroupRecord,
} from '../log-store.ts'

const KINDS: readonly DefinitionKind[] = ['queue', 'stream']
const ORIGINS: readonly DefinitionOrigin[] = ['file', 'operator', 'use', 'server']
const GROUP_KINDS: readonly GroupRecord['kind'][] = ['queue', 'stream', 'reader']
/** The kinds of names of owners. */
const USER = 1
const ADDRESS = 2
/** Stands for the kind of a definition that was deleted. Its logs and groups are still being deleted. */
const DELETED = 0xff

/** The rest of a deleted definition: the numbers of its logs. */
export interface DeletedDefinition {
  readonly logs: readonly number[]
}

/** Returns the unsealed value. */
export function encodeDefinition(record: DefinitionRecord): Buffer {
  const { kind, origin, name, properties, logs, paused, owner } = record
  const writer = new ByteWriter(64)
  const ownerName = owner === null ? '' : (owner.userName ?? owner.address)
  const texts = textBytesMax(name) + textBytesMax(properties) + textBytesMax(ownerName)
  writer.reserve(16 + logs.length * 8 + texts)
  writer.u8(KINDS.indexOf(kind))
  writeNumbers(writer, logs)
  writer.u8(ORIGINS.indexOf(origin))
  writer.u8(paused ? 1 : 0)
  writer.text(name)
  writer.text(properties)
  if (owner !== null) {
    writer.u8(owner.userName === null ? ADDRESS : USER)
    writer.text(ownerName)
  }
  return writer.taken()
}

/** Returns the unsealed value that replaces the one of a deleted definition. */
export function encodeDeleted({ logs }: DeletedDefinition): Buffer {
  const writer = new ByteWriter(64)
  writer.reserve(16 + logs.length * 8)
  writer.u8(DELETED)
  writeNumbers(writer, logs)
  return writer.taken()
}

/** Reads an unsealed value. Throws when it cannot be decoded. */
export function decodeDefinition(reader: ByteReader): DefinitionRecord | DeletedDefinition {
  const code = reader.u8()
  const logs: number[] = []
  for (let count = reader.varint(); count > 0; count--) logs.push(reader.varint())
  if (code === DELETED) return { logs }
  return {
    kind: known(KINDS, code),
    logs,
    origin: known(ORIGINS, reader.u8()),
    paused: reader.u8() === 1,
    name: reader.text(),
    properties: reader.text(),
    owner: readOwner(reader),
  }
}

/** Definitions of the operator have none, and neither have those of versions that did not know owners. */
function readOwner(reader: ByteReader): DefinitionOwner | null {
  if (reader.atEnd) return null
  const kind = reader.u8()
  if (kind !== USER && kind !== ADDRESS) throw new RangeError(`code ${kind} is not known`)
  const name = reader.text()
  return kind === USER ? { userName: name, address: '' } : { userName: null, address: name }
}

export function encodeGroup({ definition, kind, name, filter }: GroupRecord): Buffer {
  const writer = new ByteWriter(32)
  writer.reserve(16 + textBytesMax(name) + textBytesMax(filter))
  writer.varint(definition)
  writer.u8(GROUP_KINDS.indexOf(kind))
  writer.text(name)
  writer.text(filter)
  return writer.taken()
}

export function decodeGroup(reader: ByteReader): GroupRecord {
  return {
    definition: reader.varint(),
    kind: known(GROUP_KINDS, reader.u8()),
    name: reader.text(),
    filter: reader.text(),
  }
}

function writeNumbers(writer: ByteWriter, numbers: readonly number[]): void {
  writer.varint(numbers.length)
  for (const number of numbers) writer.varint(number)
}

function known<T>(values: readonly T[], code: number): T {
  const value = values[code]
  if (value === undefined) throw new RangeError(`code ${code} is not known`)
  return value
}
