import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { cleanUp, Program, ROOT, temporaryDirectory } from './process.ts'

afterEach(cleanUp)

/** Larger than needed: the package has code and texts, but no tests, sources or benchmarks. */
const PACKAGE_BYTES_MAX = 1_000_000

interface Lock {
  readonly packages: Record<string, Record<string, unknown> & { dev?: boolean; devOptional?: boolean }>
}

/** Dependencies that a project in TypeScript has itself. */
const CONSUMER_TYPES = ['node_modules/@types/node', 'node_modules/undici-types']

async function run(directory: string, name: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Program(name, args, directory).ended
  if (code !== 0) throw new Error(`${name} ${args.join(' ')}: ${code}\n${stdout}\n${stderr}`)
  return stdout
}

/**
 * Installs the packed package into a directory elsewhere, with the dependencies that our lock file names:
 * those npm has in its cache, so that no registry needs to be asked.
 */
async function install(directory: string, tarball: string): Promise<void> {
  const root = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8'))
  const lock = JSON.parse(await readFile(join(ROOT, 'package-lock.json'), 'utf8')) as Lock
  const types = root.devDependencies['@types/node']
  const own = {
    name: 'elsewhere',
    version: '1.0.0',
    dependencies: { godwit: `file:${tarball}`, '@types/node': types },
  }
  const { version, license, dependencies, bin, engines } = root
  const godwit = { version, license, dependencies, bin, engines, resolved: `file:${tarball}` }
  const needed = Object.entries(lock.packages)
    .filter(([path, { dev, devOptional }]) =>
      dev || devOptional ? CONSUMER_TYPES.includes(path) : path !== '',
    )
    .map(([path, { dev, devOptional, ...rest }]) => [path, rest])
  const packages = { '': own, 'node_modules/godwit': godwit, ...Object.fromEntries(needed) }
  await writeFile(join(directory, 'package.json'), JSON.stringify(own))
  await writeFile(
    join(directory, 'package-lock.json'),
    JSON.stringify({ ...own, lockfileVersion: 3, requires: true, packages }),
  )
  await run(directory, 'npm', 'ci', '--prefer-offline', '--ignore-scripts', '--no-audit', '--no-fund')
}

const CONSUMER = `
import { type Broker, createBroker, type ReceivedMessage } from 'godwit'

const broker: Broker = await createBroker({ listeners: [{ type: 'tcp', port: 0 }] })
const other: Broker = await createBroker({ listeners: [{ type: 'tcp', port: 0 }] })
const arrived = new Promise<ReceivedMessage>((resolve) => {
  broker.subscribe('hello/#', resolve)
})
await broker.publish({ topic: 'hello/world', payload: 'hi', qos: 1 })
const { topic, payload, qos } = await arrived
console.log(topic, payload.toString(), qos)
await Promise.all([broker.close(), other.close()])
// Nothing that is left open may keep the process from ending here.
`

async function pack(
  directory: string,
): Promise<{ filename: string; version: string; size: number; files: { path: string }[] }> {
  const packing = ['pack', '--json', '--ignore-scripts', '--pack-destination', directory]
  return JSON.parse(await run(ROOT, 'npm', ...packing))[0]
}

test('npm pack: installed elsewhere, the command runs and the library works, with types', async () => {
  const directory = await temporaryDirectory()
  const packed = await pack(directory)
  const paths = packed.files.map(({ path }) => path)
  const monitoring = String.raw`grafana-dashboard\.json|prometheus-alerts\.yaml`
  const config = String.raw`config/(godwit\.(example\.yaml|service)|OPERATING\.md|${monitoring})`
  const top = String.raw`(README|CHANGELOG)\.md|LICENSE|package\.json`
  const expected = new RegExp(String.raw`^(dist/.+\.(js|d\.ts)|${config}|${top})$`)
  expect(paths.filter((path) => !expected.test(path))).toEqual([])
  expect(packed.size).toBeLessThan(PACKAGE_BYTES_MAX)
  await install(directory, packed.filename)

  const godwit = join('node_modules', '.bin', 'godwit')
  expect(await run(directory, godwit, '--version')).toBe(`${packed.version}\n`)
  expect(await run(directory, 'npx', '--no-install', 'godwit', '--version')).toBe(`${packed.version}\n`)

  await writeFile(join(directory, 'consumer.mts'), CONSUMER)
  const tsc = join(ROOT, 'node_modules', '.bin', 'tsc')
  const options = ['--strict', '--module', 'NodeNext', '--target', 'ES2023', '--types', 'node']
  await run(directory, tsc, ...options, 'consumer.mts')
  expect(await run(directory, process.execPath, 'consumer.mjs')).toBe('hello/world hi 1\n')
})

test('npx: the packed file alone starts a broker, in an empty directory', async () => {
  const directory = await temporaryDirectory()
  const { filename, version } = await pack(directory)
  const empty = await temporaryDirectory()
  // The registry is asked for dependencies only if npm does not have them in its cache.
  const npx = ['--yes', '--prefer-offline', '--package', join(directory, filename), '--', 'godwit']
  expect(await run(empty, 'npx', ...npx, '--version')).toBe(`${version}\n`)
  const broker = new Program('npx', [...npx, '--port', '0', '--data', './data'], empty)
  await broker.until((stdout) => stdout.includes('godwit try:'))
  const status = JSON.parse(await run(empty, 'npx', ...npx, 'status', '--json', '--data', './data'))
  expect(status).toMatchObject({ version, health: { state: 'ok' } })
  process.kill(status.processId, 'SIGTERM')
  expect((await broker.ended).stdout).toContain('godwit stopped')
})

/** Both limits exist so that growth is noticed: one more dependency is a decision. */
const INSTALLED_BYTES_MAX = 30_000_000
const DEPENDENCIES_MAX = 90

test('the size of an installation is reported, and limited', async () => {
  const report = JSON.parse(await run(ROOT, process.execPath, join('scripts', 'size.mjs'), '--json'))
  expect(report.installedBytes).toBeGreaterThan(report.unpackedBytes)
  expect(report.installedBytes).toBeLessThan(INSTALLED_BYTES_MAX)
  expect(report.dependencies).toBeLessThan(DEPENDENCIES_MAX)
})
