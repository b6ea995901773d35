/** Finds the data directory of a command. Root becomes its owner. */
import { statSync } from 'node:fs'
import { type Config, type ConfigSources, configFile, loadConfig } from '../../config/config.ts'
import type { ConfigFlags } from '../../config/sources.ts'
import { dropRootToOwner } from '../start/root-trust.ts'
import type { ProcessContext } from './context.ts'
import type { DataLocation } from './options.ts'

/** Finds the data directory that `godwit start` would use. Root becomes its owner. */
export function dataDirectory(context: ProcessContext, location: DataLocation): string {
  const directory = namedDirectory(context, location)
  dropRootToOwner([directory])
  return directory
}

/**
 * Finds the directory of a command that may name another one, or a backup, which is only read. `named` is
 * null without such a name.
 */
export function namedOrDataDirectory(
  context: ProcessContext,
  location: DataLocation,
  named: string | null,
): string {
  if (named === null) return dataDirectory(context, location)
  if (statSync(named, { throwIfNoEntry: false })?.isDirectory() === true) dropRootToOwner([named])
  return named
}

/** Finds the data directory and leaves its owner alone. */
export function namedDirectory(context: ProcessContext, location: DataLocation): string {
  // `--data` reaches a running broker even if its configuration file has become invalid.
  return location.data ?? configOf(context, location).data.directory
}

/** Loads the configuration that `godwit start` would use. */
export function configOf({ environment }: ProcessContext, location: DataLocation): Config {
  const flags = location.data === undefined ? {} : { data: location.data }
  const sources = sourcesOf(environment, location.file, flags)
  if (sources.file !== undefined) dropRootToOwner([sources.file])
  const config = loadConfig(sources)
  dropRootToOwner([config.data.directory])
  return config
}

/** Returns the sources of the configuration. `named` is the file of the command line. */
export function sourcesOf(
  environment: ProcessContext['environment'],
  named: string | undefined,
  flags: ConfigFlags,
): ConfigSources {
  const file = configFile({ environment, flags, ...(named !== undefined && { file: named }) })
  return { environment, flags, ...(file !== undefined && { file }) }
}
