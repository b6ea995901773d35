/**
 * PURE. Reads addresses and networks as operators write them, and finds the network that an address is in.
 */

/** An IPv4 or IPv6 network; an address is a network of its own. */
export interface AddressRange {
  /** 4 or 16 bytes, with zeros after the prefix. */
  readonly bytes: readonly number[]
  readonly prefixBits: number
  /**
   * Text such as `203.0.113.7`, `203.0.113.0/24` or `2001:db8::/64`, always the same for the same network.
   */
  readonly text: string
}

/** Reads `203.0.113.7`, `203.0.113.0/24`, `2001:db8::1` or `2001:db8::/32`; null for anything else. */
export function parseAddressRange(text: string): AddressRange | null {
  const [address = '', prefix, ...more] = text.split('/')
  const bytes = bytesOf(address)
  if (bytes === null || more.length > 0 || (prefix !== undefined && !/^\d{1,3}$/.test(prefix))) return null
  const prefixBits = prefix === undefined ? bytes.length * 8 : Number(prefix)
  if (prefixBits > bytes.length * 8) return null
  const masked = bytes.map((byte, at) => byte & maskOf(prefixBits, at))
  const isWhole = prefixBits === bytes.length * 8
  return { bytes: masked, prefixBits, text: `${textOf(masked)}${isWhole ? '' : `/${prefixBits}`}` }
}

/** Tells whether an address, or its network by `networkOf`, is this machine itself. */
export function isThisMachine(address: string): boolean {
  return address === '' || address.startsWith('127.') || address === '::1' || address === '0:0:0:0::/64'
}

/** A map from networks to values. `of` finds the value of the narrowest network with an address. */
export class AddressRanges<T> {
  /** Values by family and prefix length, the longest first. */
  readonly #byPrefix: {
    readonly length: number
    readonly prefixBits: number
    readonly values: Map<string, T>
  }[] = []

  get isEmpty(): boolean {
    return this.#byPrefix.length === 0
  }

  set({ bytes, prefixBits }: AddressRange, value: T): void {
    const length = bytes.length
    let group = this.#byPrefix.find((each) => each.length === length && each.prefixBits === prefixBits)
    if (group === undefined) {
      group = { length, prefixBits, values: new Map() }
      this.#byPrefix.push(group)
      this.#byPrefix.sort((one, other) => other.prefixBits - one.prefixBits)
    }
    group.values.set(keyOf(bytes, prefixBits), value)
  }

  delete({ bytes, prefixBits }: AddressRange): void {
    const at = this.#byPrefix.findIndex(
      (each) => each.length === bytes.length && each.prefixBits === prefixBits,
    )
    const values = this.#byPrefix[at]?.values
    if (values === undefined) return
    values.delete(keyOf(bytes, prefixBits))
    if (values.size === 0) this.#byPrefix.splice(at, 1)
  }

  of(address: string): T | undefined {
    if (this.#byPrefix.length === 0) return undefined
    const bytes = bytesOf(address)
    if (bytes === null) return undefined
    for (const { length, prefixBits, values } of this.#byPrefix) {
      if (length !== bytes.length) continue
      const found = values.get(keyOf(bytes, prefixBits))
      if (found !== undefined) return found
    }
    return undefined
  }
}

function maskOf(prefixBits: number, at: number): number {
  const bits = Math.max(0, Math.min(8, prefixBits - at * 8))
  return (0xff << (8 - bits)) & 0xff
}

function keyOf(bytes: readonly number[], prefixBits: number): string {
  let key = ''
  for (let at = 0; at < bytes.length; at++) key += String.fromCharCode(bytes[at]! & maskOf(prefixBits, at))
  return key
}

/**
 * Reads an address. An IPv4 address mapped to IPv6 counts as IPv4; the zone of a link-local one is left out.
 */
function bytesOf(text: string): number[] | null {
  const [address = ''] = text.split('%', 1)
  if (!address.includes(':')) return bytesOf4(address)
  const mapped = /^::ffff:([\d.]+)$/i.exec(address)
  if (mapped !== null) return bytesOf4(mapped[1]!)
  const halves = address.split('::')
  if (halves.length > 2) return null
  const [before, behind] = halves.map((half) => (half === '' ? [] : half.split(':')))
  const missing = 8 - before!.length - (behind?.length ?? 0)
  if (behind === undefined ? missing !== 0 : missing < 1) return null
  const groups = [
    ...before!,
    ...Array<string>(behind === undefined ? 0 : missing).fill('0'),
    ...(behind ?? []),
  ]
  if (!groups.every((group) => /^[\da-f]{1,4}$/i.test(group))) return null
  return groups.flatMap((group) => {
    const value = Number.parseInt(group, 16)
    return [value >> 8, value & 0xff]
  })
}

function bytesOf4(address: string): number[] | null {
  const parts = address.split('.')
  if (parts.length !== 4 || !parts.every((part) => /^(?:0|[1-9]\d{0,2})$/.test(part))) return null
  const bytes = parts.map(Number)
  return bytes.every((byte) => byte <= 255) ? bytes : null
}

function textOf(bytes: readonly number[]): string {
  if (bytes.length === 4) return bytes.join('.')
  const groups = Array.from({ length: 8 }, (_, at) =>
    ((bytes[2 * at]! << 8) | bytes[2 * at + 1]!).toString(16),
  )
  // RFC 5952 leaves out the longest run of zeros.
  let [start, length] = [-1, 1]
  for (let at = 0; at < 8; at++) {
    let end = at
    while (end < 8 && groups[end] === '0') end++
    if (end - at > length) [start, length] = [at, end - at]
  }
  if (start < 0) return groups.join(':')
  return `${groups.slice(0, start).join(':')}::${groups.slice(start + length).join(':')}`
}
