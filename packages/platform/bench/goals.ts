/**
 * What we want to reach: how many times better ours is than a peer, in the median, at least.
 */

export interface Goal {
  readonly name: string
  readonly peer: string
  readonly least: number
  /** Where there is more to be had. */
  readonly stretch?: number
}

export const goals: ReadonlyArray<Goal> = [
  { name: "bulk-thread-64KiB", peer: "tcp", least: 6 },
  { name: "bulk-thread-64KiB", peer: "unix", least: 5 },
  { name: "bulk-thread-64KiB", peer: "messageport", least: 2.5 },
  { name: "bulk-thread-64KiB", peer: "ceiling", least: 0.75 },
  { name: "bulk-thread-1KiB", peer: "tcp", least: 5 },
  { name: "bulk-thread-64B", peer: "tcp", least: 10 },
  { name: "bulk-thread-64KiB-anyalign", peer: "tcp", least: 5 },
  { name: "bulk-fiber-64KiB", peer: "tcp", least: 6 },
  { name: "bulk-fiber-64KiB", peer: "duplexpair", least: 1 },
  { name: "rtt-thread-64B-polling", peer: "tcp", least: 40 },
  { name: "rtt-thread-64B-polling", peer: "unix", least: 15 },
  { name: "rtt-thread-64B-polling", peer: "messageport", least: 40 },
  { name: "rtt-thread-64B-parked", peer: "tcp", least: 1.2 },
  { name: "rtt-fiber-64B", peer: "tcp", least: 8, stretch: 12 },
  { name: "rtt-fiber-64B-socket", peer: "tcp", least: 8 },
  { name: "connect-fiber", peer: "tcp", least: 10, stretch: 20 },
  { name: "connect-thread", peer: "tcp", least: 3 },
  { name: "rpc-fiber-1", peer: "tcp", least: 2 },
  { name: "rpc-fiber-64", peer: "tcp", least: 4 },
  { name: "rpc-thread-64", peer: "nodeworker", least: 1.2 },
  { name: "http-fiber", peer: "tcp", least: 1.5 },
  { name: "fan-in-thread-1000", peer: "tcp", least: 5 },
  { name: "idle-memory", peer: "tcp", least: 1, stretch: 2 },
  { name: "connect-growth", peer: "1000-open", least: 0.77 },
  { name: "busy-machine", peer: "tcp", least: 1 },
  { name: "busy-machine-bulk", peer: "tcp", least: 1 },
  { name: "busy-machine-rtt", peer: "tcp", least: 1 }
]

export const goalOf = (name: string, peer: string): Goal | undefined =>
  goals.find((goal) => goal.name === name && goal.peer === peer)
