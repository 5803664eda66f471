//go:build race

package remote

// spare is how many times as much the race detector makes the same code allocate.
const spare = 3
