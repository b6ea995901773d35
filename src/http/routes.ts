/** The paths of the HTTP listener. */
import { type Context, Hono } from 'hono'
import type { HttpContext } from './http-context.ts'

const PATHS = 'There is nothing here. This is a Godwit broker with /livez and /readyz.\n'

/** Makes the application that answers requests. Those of other methods and paths get 405 and 404. */
export function httpRoutes({ sources }: HttpContext): Hono {
  const app = new Hono()
  app.use(async ({ res, header }, next) => {
    await next()
    void res
    header('Cache-Control', 'no-store')
    header('X-Content-Type-Options', 'nosniff')
  })
  // The process answers: that is all that a supervisor which restarts it must know.
  read(app, '/livez', (context) => context.text('ok\n'))
  read(app, '/readyz', (context) => {
    const { isReady, reasons } = sources.readiness()
    return context.text([isReady ? 'ready' : 'not ready', ...reasons, ''].join('\n'), isReady ? 200 : 503)
  })
  app.notFound((context) => context.text(PATHS, 404))
  return app
}

/** Answers GET and HEAD at a path, and tells other methods so. */
export function read(
  app: Hono,
  path: string,
  answer: (context: Context) => Response | Promise<Response>,
): void {
  app.get(path, answer)
  app.all(path, (context) =>
    context.text('Only GET and HEAD are answered here.\n', 405, { Allow: 'GET, HEAD' }),
  )
}
