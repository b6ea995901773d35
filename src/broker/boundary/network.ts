/** PURE. To which network an address belongs, for what is counted per address. */

const IPV4_MAPPED = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i

/** Groups of an IPv6 address that name a network: whoever has one address of it has all of them. */
const NETWORK_GROUPS = 4
const GROUPS = 8

/** IPv4 addresses as they are, IPv6 addresses as their /64 network such as `2001:db8:0:1::/64`; others as they are. */
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

/** Without leading zeros, in lower case: the same network is always the same text. */
function short(group: string): string {
  return group.replace(/^0+(?=.)/, '').toLowerCase()
}
