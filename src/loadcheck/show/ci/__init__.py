"""A verdict in the forms that CI systems read: JUnit XML, CTRF JSON, a Markdown summary, annotations."""
