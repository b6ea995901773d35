#!/usr/bin/env node
/** The program `godwit`. */
import { run } from './cli/run.ts'
import { askSecret } from './cli/start/secret-prompt.ts'
import { createBroker } from './godwit.ts'

// A reader of our output that goes away (`godwit | head`) must not end the broker.
process.stdout.on('error', () => {})
process.stderr.on('error', () => {})

// What it makes (messages, sockets, backups) is for its user alone, but where it says otherwise of a file.
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
