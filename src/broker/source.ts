/** PURE. From whom something comes, as far as it can be told apart. */

const HEXTETS_OF_NETWORK = 4
const HEXTETS = 8

/**
 * The address, or the network of 64 bits that an IPv6 address is in: who has one such address has all of them, and would
 * otherwise be a stranger each time.
 */
export function sourceOf(remoteAddress: string): string {
  if (!remoteAddress.includes(':')) return remoteAddress
  const [address = ''] = remoteAddress.split('%', 1)
  const [before = '', after] = address.split('::')
  const left = before === '' ? [] : before.split(':')
  const right = after === undefined || after === '' ? [] : after.split(':')
  const zeros = after === undefined ? 0 : Math.max(0, HEXTETS - left.length - right.length)
  const all = [...left, ...Array<string>(zeros).fill('0'), ...right]
  return `${all.slice(0, HEXTETS_OF_NETWORK).join(':')}::/64`
}
