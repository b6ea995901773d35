/** The paths of the HTTP listener. */
import type { IncomingMessage } from 'node:http'
import { type Context, Hono } from 'hono'
import { EXPOSITION_TYPE } from './exposition.ts'
import type { HttpContext } from './http-context.ts'
import type { MetricsPage } from './metrics-page.ts'
import { metricsRefusal } from './metrics-refusal.ts'

const PATHS = 'There is nothing here. This is a Godwit broker with /livez, /readyz and /metrics.\n'

const METRICS_OFF = 'Metrics are switched off. Set http.metrics to true.\n'

const NOT_RUNNING = 'The broker starts or stops, so it has no metrics. /readyz says more.\n'

interface Asked {
  Bindings: { readonly incoming: IncomingMessage }
}

type App = Hono<Asked>

/** Makes the application that answers requests. Those of other methods and paths get 405 and 404. */
export function httpRoutes(shared: HttpContext, page: MetricsPage): App {
  const { sources } = shared
  const app = new Hono<Asked>()
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
  read(app, '/metrics', (context) => {
    const { incoming } = context.env
    if (!shared.options.metrics) return context.text(METRICS_OFF, 404)
    const { headers, socket } = incoming
    const refusal = metricsRefusal(
      {
        remoteAddress: socket.remoteAddress ?? '',
        authorization: headers.authorization,
        accept: headers.accept,
        isForwarded: headers.forwarded !== undefined || headers['x-forwarded-for'] !== undefined,
      },
      shared.options,
    )
    if (refusal !== null) {
      shared.figures.refusals[refusal.reason]++
      if (refusal.status === 401) context.header('WWW-Authenticate', 'Bearer realm="godwit metrics"')
      return context.text(`${refusal.text}\n`, refusal.status)
    }
    const text = page.text(performance.now())
    return text === null
      ? context.text(NOT_RUNNING, 503)
      : context.body(text, 200, { 'Content-Type': EXPOSITION_TYPE })
  })
  app.notFound((context) => context.text(PATHS, 404))
  return app
}

/** Answers GET and HEAD at a path, and tells other methods so. */
export function read(
  app: App,
  path: string,
  answer: (context: Context<Asked>) => Response | Promise<Response>,
): void {
  app.get(path, answer)
  app.all(path, (context) =>
    context.text('Only GET and HEAD are answered here.\n', 405, { Allow: 'GET, HEAD' }),
  )
}
