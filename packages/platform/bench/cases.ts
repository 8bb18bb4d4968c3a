/**
 * All cases, by the file they are in. In the order in which they are measured and shown.
 */
import type { Case } from "./model.ts"

const groups: { readonly [group: string]: () => Promise<{ readonly cases: ReadonlyArray<Case> }> } = {
  bulk: () => import("./bulk.ts"),
  rtt: () => import("./rtt.ts"),
  connect: () => import("./connect.ts"),
  rpc: () => import("./rpc.ts"),
  http: () => import("./http.ts"),
  many: () => import("./many.ts"),
  busy: () => import("./busy.ts"),
  fairness: () => import("./fairness.ts")
}

export const load = async (group: string): Promise<ReadonlyArray<Case>> => (await groups[group]()).cases

export const all = async (): Promise<ReadonlyArray<Case & { readonly group: string }>> =>
  (
    await Promise.all(Object.keys(groups).map(async (group) => (await load(group)).map((of) => ({ ...of, group }))))
  ).flat()
