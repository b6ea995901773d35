/** aedes-persistence-level 9.2 ships no types: these are the parts we use. */
declare module 'aedes-persistence-level/asyncPersistence.js' {
  /**
   * The part of a level database that `putWill` calls before it first waits, and that `storeRetained` calls.
   */
  interface LevelFacade {
    put(key: string, value: Buffer, options: object): Promise<void>
  }

  export default class AsyncLevelPersistence {
    constructor(db: LevelFacade)
    /** Only for tests: puts `retained:<topic>`. */
    storeRetained(packet: { topic: string; payload: Buffer }): Promise<void>
    /** Puts `will:<client id, percent-encoded>`; sets `brokerId` and `clientId` in the packet. */
    putWill(client: { id: string }, packet: object): Promise<void>
    /** Only for tests, on a real database. */
    createRetainedStream(pattern: string): AsyncIterable<object>
    /** Only for tests, on a real database. */
    getWill(client: { id: string }): Promise<object | undefined>
  }
}
