/** Before all tests: the keys of the fixtures get the mode that Godwit asks for, which git does not keep. */
import { chmodSync } from 'node:fs'

export function setup(): void {
  for (const name of ['server', 'client', 'stranger']) {
    chmodSync(new URL(`fixtures/tls/${name}-key.pem`, import.meta.url), 0o600)
  }
}
