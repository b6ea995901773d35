#!/usr/bin/env node
/** The program `godwit`. */
import { run } from './cli/run.ts'
import { askSecret } from './cli/start/secret-prompt.ts'
import { createBroker } from './godwit.ts'
import { inlineMore } from './runtime/inlining.ts'

inlineMore()

// The broker goes on when the reader of its output goes away, as in `godwit | head`.
process.stdout.on('error', () => {})
process.stderr.on('error', () => {})

// Files, sockets and backups belong to this user alone, unless the code sets another mode.
process.umask(process.umask() | 0o077)

const code = await run({
  words: process.argv.slice(2),
  environment: process.env,
  get stdin() {
    return process.stdin
  },
  get askSecret() {
    return process.stdin.isTTY ? askSecret : null
  },
  stdout: process.stdout,
  stderr: process.stderr,
  startBroker: createBroker,
  onStopSignal: (callback) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, callback)
  },
  onReloadSignal: (callback) => {
    process.on('SIGHUP', callback)
  },
  onUncaught: (callback) => {
    process.on('uncaughtException', callback)
    process.on('unhandledRejection', callback)
  },
  now: () => performance.now(),
  exit: (code) => process.exit(code),
})
process.exit(code)
