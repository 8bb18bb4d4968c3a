/**
 * The results as bar charts.
 */
import * as echarts from "echarts"
import { goalOf } from "./goals.ts"
import type { Result } from "./model.ts"

export interface Chart {
  /** Of its file. */
  readonly name: string
  readonly title: string
  readonly svg: string
}

const WIDTH = 900
const BAR = 22
const FONT = "system-ui, sans-serif"

const render = (height: number, option: echarts.EChartsCoreOption): string => {
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width: WIDTH, height })
  chart.setOption({ animation: false, backgroundColor: "#ffffff", textStyle: { fontFamily: FONT }, ...option })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return `${svg}\n`
}

const rounded = (value: number): number => Number(value.toPrecision(3))

/** How many times better ours is, beside what we want. */
const ratios = (results: ReadonlyArray<Result>, title: string): string => {
  const rows = results.filter(({ name, peer }) => goalOf(name, peer) !== undefined).toReversed()
  return render(110 + rows.length * BAR, {
    title: { text: title, left: "center", textStyle: { fontSize: 15 } },
    legend: { bottom: 6, data: ["reached", "not reached", "goal"] },
    grid: { left: 250, right: 60, top: 40, bottom: 60 },
    xAxis: { type: "log", logBase: 10, name: "times", min: 0.1 },
    yAxis: { type: "category", data: rows.map(({ name, peer }) => `${name} / ${peer}`), axisLabel: { fontSize: 11 } },
    series: [
      ...[true, false].map((isReached) => ({
        name: isReached ? "reached" : "not reached",
        type: "bar",
        barWidth: 12,
        barGap: "-100%",
        itemStyle: { color: isReached ? "#2b8a6b" : "#c2703d" },
        label: { show: true, position: "right", fontSize: 10 },
        data: rows.map(({ name, peer, ratio }) =>
          ratio.median >= goalOf(name, peer)!.least === isReached ? rounded(ratio.median) : "-"
        )
      })),
      {
        name: "goal",
        type: "scatter",
        symbol: "rect",
        symbolSize: [3, 18],
        itemStyle: { color: "#222222" },
        data: rows.map(({ name, peer }) => goalOf(name, peer)!.least)
      }
    ]
  })
}

const WAYS = ["ours", "tcp", "unix", "messageport", "duplexpair", "nodeworker", "ceiling"]
const COLOURS = ["#2b8a6b", "#8d99ae", "#b8c0cc", "#d4a373", "#a98467", "#7f6a93", "#cccccc"]

/** The figures of each way, side by side for each case. */
const figures = (results: ReadonlyArray<Result>, title: string, isLog: boolean): string => {
  const names = [...new Set(results.map(({ name }) => name))]
  const valueOf = (name: string, way: string): number | "-" => {
    const rows = results.filter((result) => result.name === name && (way === "ours" || result.peer === way))
    if (rows.length === 0) return "-"
    const values = rows.map(({ ours, theirs }) => (way === "ours" ? ours : theirs).median).toSorted((a, b) => a - b)
    return rounded(values[values.length >> 1])
  }
  const ways = WAYS.filter((way) => names.some((name) => valueOf(name, way) !== "-"))
  return render(380, {
    title: { text: title, left: "center", textStyle: { fontSize: 15 } },
    color: ways.map((way) => COLOURS[WAYS.indexOf(way)]),
    legend: { bottom: 6, data: ways },
    grid: { left: 60, right: 20, top: 50, bottom: 100 },
    xAxis: { type: "category", data: names, axisLabel: { rotate: 20, fontSize: 10, interval: 0 } },
    yAxis: isLog
      ? { type: "log", name: results[0].unit, min: 0.1, startValue: 0.1 }
      : { type: "value", name: results[0].unit },
    series: ways.map((way) => ({
      name: way,
      type: "bar",
      label: { show: true, position: "top", fontSize: 8 },
      data: names.map((name) => valueOf(name, way))
    }))
  })
}

/** The charts that these results make. `on` names the machine's Node. */
export const charts = (results: ReadonlyArray<Result>, on: string): ReadonlyArray<Chart> => {
  const of = (pattern: RegExp) => results.filter(({ name }) => pattern.test(name))
  const made: Array<Chart> = []
  const add = (name: string, title: string, rows: ReadonlyArray<Result>, draw: (title: string) => string) => {
    if (rows.length > 0) made.push({ name, title, svg: draw(`${title}, ${on}`) })
  }
  const withGoal = results.filter(({ name, peer }) => goalOf(name, peer) !== undefined)
  add("ratios", "How many times better than its peer", withGoal, (title) => ratios(results, title))
  const bulk = of(/^bulk-/)
  add("bulk", "Bytes: GB/s, more is better", bulk, (title) => figures(bulk, title, false))
  const trips = of(/^rtt-/)
  add("round-trips", "Round trips of 64 B: microseconds, less is better", trips, (title) => figures(trips, title, true))
  const calls = of(/^(connect-fiber|connect-thread|rpc-|http-|fan-in)/)
  add("calls", "Connections, calls, requests, messages: microseconds, less is better", calls, (title) =>
    figures(calls, title, true)
  )
  return made
}
