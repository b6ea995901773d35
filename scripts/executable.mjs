// tsc keeps the first line of main.ts and does not know that it makes the file a program.
import { chmodSync } from 'node:fs'

chmodSync(new URL('../dist/main.js', import.meta.url), 0o755)
