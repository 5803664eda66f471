// Package endpoint holds tests of endpoints through a whole server in one
// process: what a client sends and what it sees. A file of tests is a chapter
// of the API. There is nothing here but tests.
package endpoint
