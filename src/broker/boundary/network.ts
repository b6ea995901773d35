/** PURE. The network that an address belongs to. Counts per address are per network. */

const IPV4_MAPPED = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i

/** Groups of an IPv6 address that identify its network: one owner has all addresses of a network. */
const NETWORK_GROUPS = 4
const GROUPS = 8

/**
 * Returns the /64 network of an IPv6 address, such as `2001:db8:0:1::/64`, and other addresses as they are.
 */
export function networkOf(remoteAddress: string): string {
  if (!remoteAddress.includes(':')) return remoteAddress
  const mapped = IPV4_MAPPED.exec(remoteAddress)
  if (mapped !== null) return mapped[1]!
  const address = remoteAddress.split('%', 1)[0]!
  const [before, after] = address.split('::', 2)
  const groups = groupsOf(before!)
  const behind = after === undefined ? [] : groupsOf(after)
  if (after !== undefined) while (groups.length + behind.length < GROUPS) groups.push('0')
  const network = [...groups, ...behind].slice(0, NETWORK_GROUPS)
  return `${network.map(short).join(':')}::/64`
}

function groupsOf(part: string): string[] {
  return part === '' ? [] : part.split(':')
}

/** Removes leading zeros and upper case, so that a network is always the same text. */
function short(group: string): string {
  return group.replace(/^0+(?=.)/, '').toLowerCase()
}
