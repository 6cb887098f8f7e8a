// Package controller keeps one Checkpoint for each protected pod and its continuations, and carries pods over an interruption:
// it says whether a pod can be protected, releases the source once its final generation is durable, and creates the
// replacement of a bare pod. Owners make those of theirs; which pod continues which, the agents decide by their claims.
//
// There is one Reconciler, keyed by Checkpoints. It looks at the world anew each time (the pod that bears the Checkpoint,
// the one that has claimed, another under the bearer's name) and runs its phases in order: lose, note eviction, end, follow,
// leave, protect, tolerate, release, replace, give up. Every phase is idempotent and has the same shape. A pod of the key's name that no Checkpoint
// concerns is enrolled after that.
//
// # What keeps it safe
//
// Agents write other parts of the same status, and a JSON merge patch replaces the list of conditions whole. So every
// status write is a merge patch that carries the resourceVersion it was computed from: a stale view ends in a conflict
// and a fresh look, never in a lost condition. Server-side apply would save the conflicts but not notice a stale view,
// and the decisions here (the pod was deleted before the notice; the Checkpoint may go) hang on the view being fresh.
//
// What cannot carry a resourceVersion is safe by itself. Removing the source names its UID, and only happens after
// its final generation is durable: a fact that is never taken back. Creating the replacement happens by name, after
// reading the Checkpoint and the pod past the cache; the API server lets one pod bear a name, and the agent restores
// for one claim only.
package controller
