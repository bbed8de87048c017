// Before the page is drawn: the theme that was chosen, so that nothing flashes.
'use strict';
try {
  const theme = localStorage.getItem('ds4.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // No storage: the system's theme it is.
}
