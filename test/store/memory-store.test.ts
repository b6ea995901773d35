import { MemoryStore } from '../../src/store/memory-store.ts'
import { storeContract } from './contract.ts'

storeContract('MemoryStore', () => new MemoryStore(), { durable: false })
