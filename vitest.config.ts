import { configDefaults, defineConfig } from 'vitest/config'

/** Tests that start what `npm run build` made. */
const BUILT = [
  'test/bench/**/*.test.ts',
  'test/broker/accounts/costs.test.ts',
  'test/cli/actions/inventory-commands.test.ts',
  'test/cli/actions/queue-commands.test.ts',
  'test/cli/actions/store-commands.test.ts',
  'test/conformance/process.test.ts',
  'test/crash/crash.test.ts',
  'test/crash/variants.test.ts',
  'test/differential/mosquitto.test.ts',
  'test/e2e/**/*.test.ts',
  'test/hostile/open-files.test.ts',
]

export default defineConfig({
  test: {
    // Several polls may wait in one test.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    // The default of a second is too short on a busy machine.
    expect: { poll: { timeout: 60_000 } },
    pool: 'forks',
    maxWorkers: 2,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: [...configDefaults.exclude, ...BUILT],
          globalSetup: ['test/private-keys.ts'],
        },
      },
      {
        extends: true,
        test: { name: 'built', include: BUILT, globalSetup: ['test/private-keys.ts', 'test/build.ts'] },
      },
    ],
  },
})
