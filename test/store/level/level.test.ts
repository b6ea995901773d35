import { LevelStore } from '../../../src/store/level/level.ts'
import type { LevelStoreOptions } from '../../../src/store/level/level-options.ts'
import { storeContract } from '../contract.ts'

const MIB = 1024 * 1024

function levelStore(directory: string, options: Partial<LevelStoreOptions> = {}): LevelStore {
  return new LevelStore({ directory, sync: false, residentBytesMax: 64 * MIB, reserveBytes: 0, ...options })
}

storeContract('LevelStore', levelStore, { durable: true })

storeContract(
  'LevelStore that checkpoints, evicts and deletes all the time',
  (directory) =>
    levelStore(directory, { residentBytesMax: 4000, checkpointJournalBytes: 40_000, writeBufferBytes: 4096 }),
  { durable: true },
)
