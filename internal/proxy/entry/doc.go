// Package entry reads what people write about proxies: the URL of one, and the
// destinations that are reached without. It decides nothing and opens nothing.
// Whoever checks or uses such text imports it; it imports none of ours.
package entry
