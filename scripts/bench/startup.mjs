/** Measures how soon a broker lets the first client in, and how much has to be installed for it. */
import { spawnSync } from 'node:child_process'
import { existsSync, lstatSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { ROOT, startBroker } from './brokers.mjs'

/** MQTT 3.1.1, Clean Session, no Keep Alive, Client Identifier `first`. */
const CONNECT = Buffer.from('\x10\x11\0\x04MQTT\x04\x02\0\0\0\x05first', 'latin1')

const MIB = 1024 * 1024

/**
 * Starts a broker on an empty directory and connects to it. Resolves with `start_ms`, from the start of its
 * process to CONNACK; `rss_mb` just after; `installed_mb` and `dependencies`.
 */
export async function measureStart(name) {
  const broker = await startBroker(name, { sysSeconds: 10 })
  try {
    const from = performance.now()
    await connackFrom(broker.port)
    const start_ms = broker.startMs + performance.now() - from
    return { start_ms, rss_mb: residentBytes(broker.pid) / MIB, ...installed(name) }
  } finally {
    await broker.stop()
  }
}

/** @returns {Promise<void>} */
function connackFrom(port) {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(CONNECT))
    socket.once('error', reject)
    socket.once('data', () => {
      socket.destroy()
      resolve()
    })
  })
}

function residentBytes(pid) {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024
}

/** Returns what has to be installed, without Node itself. */
function installed(name) {
  if (name === 'bare-node') return { installed_mb: 0, dependencies: 0 }
  if (name.startsWith('mosquitto')) return debianPackage('mosquitto')
  if (name === 'aedes-level') return npmPackages('aedes', 'aedes-persistence-level', 'level')
  if (name === 'aedes') return npmPackages('aedes')
  const { dependencies } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
  const { installed_mb, dependencies: count } = npmPackages(...Object.keys(dependencies))
  return { installed_mb: installed_mb + bytesBelow(join(ROOT, 'dist')) / MIB, dependencies: count }
}

/**
 * Counts these packages and all that they need, as npm installed them: optional ones for this platform only.
 */
function npmPackages(...names) {
  const paths = new Set()
  for (const name of names) collect(paths, name, ROOT)
  const bytes = [...paths].reduce((sum, path) => sum + bytesBelow(path, 'node_modules'), 0)
  return { installed_mb: bytes / MIB, dependencies: paths.size }
}

function collect(paths, name, from) {
  const path = installedAt(name, from)
  if (path === null || paths.has(path)) return
  paths.add(path)
  const needs = JSON.parse(readFileSync(join(path, 'package.json'), 'utf8'))
  const all = { ...needs.dependencies, ...needs.optionalDependencies }
  for (const needed of Object.keys(all)) collect(paths, needed, path)
}

/** Looks where Node does: in node_modules of this directory, or of one above. */
function installedAt(name, from) {
  const path = join(from, 'node_modules', name)
  if (existsSync(path)) return path
  return from === dirname(from) ? null : installedAt(name, dirname(from))
}

/** Returns the size of Debian's package, and the number of shared libraries that its program loads. */
function debianPackage(name) {
  const status = spawnSync('dpkg-query', ['-s', name], { encoding: 'utf8' }).stdout ?? ''
  const libraries = spawnSync('ldd', ['/usr/sbin/mosquitto'], { encoding: 'utf8' }).stdout ?? ''
  return {
    installed_mb: Number(/^Installed-Size: (\d+)/m.exec(status)?.[1]) / 1024,
    dependencies: libraries.split('\n').filter((line) => line.includes('=>')).length,
  }
}

function bytesBelow(path, except) {
  if (!lstatSync(path).isDirectory()) return statSync(path).size
  return readdirSync(path)
    .filter((name) => name !== except)
    .reduce((sum, name) => sum + bytesBelow(join(path, name), except), 0)
}
