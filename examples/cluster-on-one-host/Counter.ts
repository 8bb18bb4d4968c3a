/**
 * What the threads of the cluster agree on: its entity, one counter for each name, wherever that is.
 */
import { Schema } from "effect"
import { Entity } from "effect/cluster"
import { Rpc } from "effect/rpc"

export const Counted = Schema.Struct({ count: Schema.Finite, runner: Schema.String })

export const Counter = Entity.make("Counter", [Rpc.make("Count", { success: Counted })])

/** How often is looked who has which counters: for the impatient, the default is 3 seconds. */
export const refreshAssignmentsInterval = "250 millis"
