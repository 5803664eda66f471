//go:build !race

package remote

const spare = 1
