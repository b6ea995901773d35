/** Draws charts of ratios to Mosquitto, as SVG for light and dark backgrounds. */

/** Room for the longest label of all charts. */
const LEFT = 350
const PLOT = 470
const RIGHT = 40
const TOP = 74
const LINE = 22

const LOWEST = 0.02
const HIGHEST = 50
const TICKS = [0.03, 0.1, 0.3, 1, 3, 10, 30]

/** The words of the chart of the README. */
const WORDS = {
  title: 'CPU time of the broker, as a ratio to Mosquitto',
  note: 'per message unless the row says otherwise; logarithmic; left of the line is less',
}

/** Classes of the brokers, in their order; Mosquitto is the line at 1. */
const SERIES = ['first', 'second', 'third', 'fourth']

const STYLE = `
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
  .title { font-size: 15px; font-weight: 600 }
  .faint { fill: #59636e }
  .grid { stroke: #d1d9e0 }
  .one { stroke: #59636e; stroke-width: 1.5 }
  .stem { stroke: #0969da; stroke-width: 3; opacity: .3 }
  .first { fill: #0969da } .second { fill: #bc4c00 } .third { fill: #1a7f37 } .fourth { fill: #8250df }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .faint { fill: #9198a1 } .grid { stroke: #3d444d } .one { stroke: #9198a1 }
    .stem { stroke: #4493f8 }
    .first { fill: #4493f8 } .second { fill: #f0883e } .third { fill: #3fb950 } .fourth { fill: #ab7df8 }
  }`

/**
 * Returns the SVG.
 *
 * @param {readonly { title: string, ratios: Record<string, number> }[]} rows from the top; the ratios are by
 * broker, and NaN for one that has none
 * @param {readonly string[]} brokers their names, `mosquitto` among them
 * @param {{ title: string, note: string }} words
 */
export function chart(rows, brokers, { title, note } = WORDS) {
  const others = brokers.filter((name) => name !== 'mosquitto')
  const series = new Map(others.map((name, i) => [name, SERIES[i % SERIES.length]]))
  const height = TOP + rows.length * LINE + 34
  const width = LEFT + PLOT + RIGHT
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${title}">
<style>${STYLE}
</style>
<text x="12" y="24" class="title">${title}</text>
<text x="12" y="44" class="faint">${note}</text>
${legend(series, width)}
${axis(height)}
${rows.map((row, i) => line(row, TOP + i * LINE + LINE / 2, series)).join('\n')}
</svg>
`
}

function legend(series, width) {
  const marks = []
  let x = width - RIGHT
  for (const [name, style] of [...series].reverse()) {
    x -= 7 * name.length + 26
    marks.push(
      `<circle cx="${x}" cy="40" r="5" class="${style}"/><text x="${x + 10}" y="44">${escaped(name)}</text>`,
    )
  }
  return marks.join('\n')
}

function axis(height) {
  const bottom = height - 28
  return TICKS.map((tick) => {
    const x = place(tick)
    const style = tick === 1 ? 'one' : 'grid'
    const label = tick === 1 ? '1 mosquitto' : tick
    const mark = `<line x1="${x}" y1="${TOP - 8}" x2="${x}" y2="${bottom}" class="${style}"/>`
    return `${mark}<text x="${x}" y="${bottom + 17}" text-anchor="middle" class="faint">${label}</text>`
  }).join('\n')
}

function line({ title, ratios }, y, series) {
  const [first] = series.keys()
  const stem = Number.isFinite(ratios[first])
    ? `<line x1="${place(1)}" y1="${y}" x2="${place(ratios[first])}" y2="${y}" class="stem"/>`
    : ''
  // The first broker is drawn last, on top of the others.
  const marks = [...series].reverse().map(([name, style]) => {
    const ratio = ratios[name]
    if (!Number.isFinite(ratio)) return ''
    const title = `<title>${escaped(name)}: ${ratio.toFixed(2)}</title>`
    return `<circle cx="${place(ratio)}" cy="${y}" r="5" class="${style}">${title}</circle>`
  })
  const label = `<text x="${LEFT - 14}" y="${y + 4}" text-anchor="end">${escaped(title)}</text>`
  return `${label}${stem}${marks.join('')}`
}

/** Returns the place of a ratio, logarithmically. Ratios beyond the ends are at the ends. */
function place(ratio) {
  const within = Math.min(HIGHEST, Math.max(LOWEST, ratio))
  const share = Math.log(within / LOWEST) / Math.log(HIGHEST / LOWEST)
  return Math.round((LEFT + share * PLOT) * 10) / 10
}

function escaped(text) {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;')
}
