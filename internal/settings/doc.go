// Package settings holds what a user and an administrator may choose: the one
// schema, the two files, which source of a value wins, and a feed of changes. It
// applies nothing; package daemon does, and package cli shows and edits. Only
// these two import it.
//
// # Theory of operation
//
// Values come in layers. For each key the last one in this table that names it
// wins:
//
//	layer          file                        written by
//	default        none, the schema            nobody
//	admin default  admin file, locked: false   the administrator
//	user           settings.json of a profile  the user, by `portolan settings`
//	admin lock     admin file, locked: true    the administrator
//
// A text becomes a tree with lines (tree.go), the tree a Layer (user.go,
// admin.go), the layers a Snapshot (resolve.go); Values is what the daemon reads.
// A key that nobody knows is kept and warned of. Anything else that is wrong
// makes the whole file bad, and a bad file changes nothing:
//
//	bad file    while running           at a start
//	user's      the last good stays     the last good copy, else the start is refused
//	admin file  the last good stays     the last good copy, else the start is refused
//
// The last good copies lie in the profile's state directory. Besides its content,
// an admin file is bad when it is a symbolic link, belongs to somebody else than
// root, or could be written by others, it or its directory.
package settings
