import { describe, expect, it } from 'vitest'
import { bucketMs, Histogram } from '../../src/structures/histogram.ts'

describe('a histogram', () => {
  it('gives quantiles to within a fifth', () => {
    const histogram = new Histogram()
    expect(histogram.quantileMs(0.5)).toBe(0)
    for (let ms = 1; ms <= 1000; ms++) histogram.add(ms)
    expect([histogram.count, histogram.sumMs, histogram.maxMs]).toEqual([1000, 500_500, 1000])
    for (const share of [0.1, 0.5, 0.99, 0.999, 1]) {
      const exact = share * 1000
      expect(histogram.quantileMs(share)).toBeGreaterThanOrEqual(exact * 0.999)
      expect(histogram.quantileMs(share)).toBeLessThan(exact * 1.2)
    }
  })

  it('takes values below and above its scale', () => {
    const histogram = new Histogram()
    histogram.add(0)
    histogram.add(1e6)
    expect(histogram.counts[0]).toBe(1)
    expect(histogram.counts.at(-1)).toBe(1)
    expect(histogram.quantileMs(0.5)).toBe(0.015625)
    expect(histogram.quantileMs(1)).toBe(1e6)
    expect(bucketMs(80)).toBe(16_384)
  })
})
