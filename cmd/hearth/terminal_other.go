//go:build !linux

package main

import "os"

// hideTyping shows what is typed: only Linux terminals are known.
func hideTyping(*os.File) (restore func()) { return func() {} }
