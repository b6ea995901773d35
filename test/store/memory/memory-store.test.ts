import { MemoryStore } from '../../../src/store/memory/memory-store.ts'
import { storeContract } from '../contract.ts'
import { logsContract } from '../logs-contract.ts'

storeContract('MemoryStore', () => new MemoryStore(), { durable: false })
logsContract('MemoryStore', () => new MemoryStore(), { durable: false })
