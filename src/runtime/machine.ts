/** By which names and addresses this machine can be reached, without asking the network. */
import { readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { hostname, networkInterfaces } from 'node:os'

export interface Reachable {
  /** DNS names, the machine's own first, `localhost` last. */
  readonly names: readonly string[]
  /** IPv4 and IPv6 addresses: those that other machines reach first, loopback last. */
  readonly addresses: readonly string[]
}

/** A DNS name as certificates have it: RFC 5280 asks for letters, digits and hyphens, and much uses underscores. */
const DNS_NAME =
  /^(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$/i

/** A DNS name that may stand in a certificate. */
export function isDnsName(name: string): boolean {
  return DNS_NAME.test(name) && isIP(name) === 0
}

/** An address as people write it: Node writes those of IPv6 in a certificate without `::`. */
export function shortAddress(address: string): string {
  return isIP(address) === 6 ? new URL(`http://[${address}]`).hostname.slice(1, -1) : address
}

/** This machine's. `hosts` is the text of /etc/hosts. */
export function thisMachine(hosts = hostsFile()): Reachable {
  const found = Object.values(networkInterfaces()).flatMap((list) => list ?? [])
  // Link-local addresses of IPv6 come with the name of an interface, which no certificate has.
  const address = ({ address }: { readonly address: string }): string => address.split('%', 1)[0]!
  const outside = found.filter(({ internal }) => !internal).toSorted(ipv4First)
  const addresses = unique([...outside.map(address), '127.0.0.1', '::1'])
  const host = hostname()
  // As which it answers in a network without a name server (multicast DNS, RFC 6762).
  const local = `${host.split('.', 1)[0]}.local`
  const names = [host, ...(host === 'localhost' ? [] : [local]), ...namesOf(hosts, addresses)]
    .filter(isDnsName)
    .map((name) => name.toLowerCase())
  return { names: unique([...names, 'localhost']).toSorted(localhostLast), addresses }
}

/** Names that /etc/hosts gives to these addresses, or to any other of loopback. */
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
