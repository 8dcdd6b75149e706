// Package view is what net shows of the things that netd tells of: the objects of inspect, with Docker's field names
// where Docker has the field, and durations, sizes and times for people.
package view
