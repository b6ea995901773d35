/**
 * Prints the size of an installation on this machine: of the packed package, and of every package that comes
 * with it. Needs no network.
 *
 *     node scripts/size.mjs [--json]
 */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join, relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))

const [packed] = JSON.parse(npm('pack', '--dry-run', '--json', '--ignore-scripts'))
const dependencies = npm('ls', '--all', '--omit=dev', '--parseable')
  .trim()
  .split('\n')
  .filter((path) => path !== '' && relative(ROOT, path) !== '')
  .map((path) => ({ name: nameOf(path), version: versionOf(path), bytes: bytesOf(path) }))
  .sort((one, other) => other.bytes - one.bytes)
const direct = Object.keys(JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')).dependencies).length
const installedBytes = dependencies.reduce((sum, { bytes }) => sum + bytes, packed.unpackedSize)
const report = {
  packedBytes: packed.size,
  unpackedBytes: packed.unpackedSize,
  installedBytes,
  directDependencies: direct,
  dependencies: dependencies.length,
}

if (process.argv.includes('--json')) console.log(JSON.stringify(report))
else {
  for (const { name, version, bytes } of dependencies) {
    console.log(`${kib(bytes).padStart(10)}  ${name} ${version}`)
  }
  console.log(`${kib(packed.unpackedSize).padStart(10)}  godwit itself (${kib(packed.size)} packed)`)
  const direction = `${dependencies.length} packages, of which ${direct} are named in package.json`
  console.log(`${kib(installedBytes).padStart(10)}  installed: godwit and ${direction}`)
}

function npm(...words) {
  const { status, stdout, stderr } = spawnSync('npm', words, { cwd: ROOT, encoding: 'utf8' })
  if (status !== 0) throw new Error(`npm ${words.join(' ')}: ${stderr}`)
  return stdout
}

function nameOf(path) {
  return path.split(`node_modules${sep}`).at(-1).replaceAll(sep, '/')
}

function versionOf(path) {
  return JSON.parse(readFileSync(join(path, 'package.json'), 'utf8')).version
}

/** Returns the size of a package, without packages inside it that are listed by themselves. */
function bytesOf(directory) {
  let bytes = 0
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name)
    if (entry.isDirectory() && entry.name !== 'node_modules') bytes += bytesOf(path)
    else if (entry.isFile()) bytes += statSync(path).size
  }
  return bytes
}

function kib(bytes) {
  return `${Math.ceil(bytes / 1024)} KiB`
}
