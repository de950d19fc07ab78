// Package archtest holds the import rules of the tree, as ARCHITECTURE.md
// states them, in a form that a test can check.
//
// A rule looks at one package and at what it imports: directly, from its
// tests, or at any remove. The package's own test asks `go list -deps` about
// the whole module and fails on the first broken rule, and tries each rule on a
// made-up violation, so that a rule which can never fail is found too.
package archtest
