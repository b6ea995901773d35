/** Finds the names and addresses of this machine without asking the network. */
import { readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { hostname, networkInterfaces } from 'node:os'

/** The names and addresses by which clients can reach this machine. */
export interface MachineNames {
  /** DNS names, the machine's own first, `localhost` last. */
  readonly names: readonly string[]
  /** IPv4 and IPv6 addresses: first those that other machines can reach, loopback last. */
  readonly addresses: readonly string[]
}

/** A DNS name in a certificate. RFC 5280 allows letters, digits and hyphens; underscores are common, too. */
const DNS_NAME =
  /^(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$/i

/** Whether the text is a DNS name that a certificate may contain. */
export function isDnsName(name: string): boolean {
  return DNS_NAME.test(name) && isIP(name) === 0
}

/** Shortens an IPv6 address with `::`, as people write it. Node shows those in certificates in full. */
export function shortAddress(address: string): string {
  return isIP(address) === 6 ? new URL(`http://[${address}]`).hostname.slice(1, -1) : address
}

/** Returns the names and addresses of this machine. `hosts` is the text of /etc/hosts. */
export function thisMachine(hosts = hostsFile()): MachineNames {
  const found = Object.values(networkInterfaces()).flatMap((list) => list ?? [])
  // Node appends the interface to link-local addresses of IPv6; certificates do not.
  const address = ({ address }: { readonly address: string }): string => address.split('%', 1)[0]!
  const outside = found.filter(({ internal }) => !internal).toSorted(ipv4First)
  const addresses = unique([...outside.map(address), '127.0.0.1', '::1'])
  const host = hostname()
  // The name in a network without a name server (multicast DNS, RFC 6762).
  const local = `${host.split('.', 1)[0]}.local`
  const names = [host, ...(host === 'localhost' ? [] : [local]), ...namesOf(hosts, addresses)]
    .filter(isDnsName)
    .map((name) => name.toLowerCase())
  return { names: unique([...names, 'localhost']).toSorted(localhostLast), addresses }
}

/** Returns the names that /etc/hosts gives to these addresses or to any loopback address. */
function namesOf(hosts: string, addresses: readonly string[]): string[] {
  return hosts.split('\n').flatMap((line) => {
    const [address = '', ...names] = line.replace(/#.*/, '').trim().split(/\s+/)
    const isOurs = addresses.includes(address) || address.startsWith('127.')
    return isOurs ? names.filter((name) => !name.startsWith('ip6-')) : []
  })
}

function hostsFile(): string {
  try {
    return readFileSync('/etc/hosts', 'utf8')
  } catch {
    return ''
  }
}

function ipv4First(one: { readonly family: string }, other: { readonly family: string }): number {
  return one.family.localeCompare(other.family)
}

function localhostLast(one: string, other: string): number {
  return Number(one === 'localhost') - Number(other === 'localhost')
}

function unique(list: readonly string[]): string[] {
  return [...new Set(list)]
}
